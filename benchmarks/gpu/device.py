"""A device's clock, memory and rate of matrix products."""

import gc
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.process import PeakMemory

MIB = 1 << 20


def device_named(name: str) -> torch.device:
    """The device of that name.

    Raises:
        ValueError: there is no such device.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"--device {name}: cpu or cuda is measured") from None
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"--device {name}: cpu or cuda is measured")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device {name}: torch {torch.__version__} sees no GPU here; use cpu")
    return device


def machine(device: torch.device) -> dict[str, Any]:
    """What the numbers were measured on."""
    known: dict[str, Any] = {
        "device": _processor(),
        "memory_mib": _memory() // MIB,
        "threads": torch.get_num_threads(),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "diffusers", "transformers")},
    }
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        known |= {"device": card.name, "memory_mib": card.total_memory // MIB}
        known["cuda"] = torch.version.cuda
        known["tf32"] = {
            "products": torch.backends.cuda.matmul.allow_tf32,
            "convolutions": torch.backends.cudnn.allow_tf32,
        }
    return {"type": device.type, **known}


def free_memory(device: torch.device) -> int:
    """Bytes that could be allocated now."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free
    return _meminfo("MemAvailable")


def let_go() -> None:
    """Release the device memory that torch no longer uses."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def wait(device: torch.device) -> None:
    """Wait until the device has finished everything it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """How long `work` takes, including the device's part of it."""
    wait(device)
    started = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - started


@contextmanager
def float32_in_full() -> Iterator[None]:
    """Compute without TF32, which torch by default allows for a card's float32 convolutions."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


class Peak:
    """How far memory rose above its level at the start; on a card, the memory torch allocates."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
            self._start = torch.cuda.memory_allocated(device)
        else:
            self._host = PeakMemory()

    def mib(self) -> float:
        """The rise so far, in MiB."""
        if self._device.type == "cuda":
            return (torch.cuda.max_memory_allocated(self._device) - self._start) / MIB
        return self._host.mib()


def product_rate(device: torch.device, dtype: torch.dtype, *, side: int) -> float:
    """Operations a second of square matrix products: the rate to aim for.

    The fastest of five, since whatever else the machine does can only slow them.
    """
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))

    def product() -> None:
        left @ right

    product()
    return float(2 * side**3 / min(seconds(product, device) for _ in range(5)))


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory() -> int:
    return _meminfo("MemTotal")


def _meminfo(field: str) -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise OSError(f"/proc/meminfo has no {field}")
