"""Two workers on one node load one model: its weights are in memory once, as pages of its files."""

import multiprocessing
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.families import WIDER, save
from benchmarks.process import MIB
from benchmarks.results import Measurement
from conceptprune.models.families import family_of
from conceptprune.models.prompt import Prompt

WORKERS = 2
LARGE = {**WIDER["pixart-sigma"], "num_layers": 48}
"""0.1 B weights: large compared with all else in a process that varies between runs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """One worker's model: seconds it took, and bytes of its weights' pages."""

    seconds: float
    file_bytes: int
    resident: int
    """Bytes of the mapped weights' file that are in memory."""
    shared: int
    """Of these, pages that another process has mapped too."""
    own: int
    """Resident memory that no other process shares."""


def run() -> list[Measurement]:
    """A model of 0.4 GB in the files' own dtype, and in another one."""
    return [*measure(LARGE, "float32"), *measure(LARGE, "bfloat16")]


def run_minimal() -> list[Measurement]:
    """The tiny model in one worker, which takes seconds to start, to see that it runs."""
    return measure({}, "float32", workers=1)


def measure(config: dict[str, Any], dtype: str, *, workers: int = WORKERS) -> list[Measurement]:
    """The workers' memory maps, while all are alive and have run the denoiser once."""
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        save("pixart-sigma", config, Path(folder))
        barrier = spawn.Barrier(workers)
        with spawn.Pool(workers, _prepare, (barrier,)) as pool:
            first, *_ = pool.map(_load, [(folder, dtype)] * workers, chunksize=1)
    mapped = f"of {first.file_bytes / MIB:.0f} MiB of weights in the denoiser's file"
    return [
        Measurement(
            what=f"files float32, loaded as {dtype}: pages shared by {workers} workers",
            value=100 * first.shared / first.file_bytes,
            unit="%",
            at_least=90 if dtype == "float32" and config else None,
            note=mapped,
        ),
        Measurement(
            what=f"files float32, loaded as {dtype}: memory of a worker's own",
            value=first.own / MIB,
            unit="MiB",
            note=f"mapped and resident {first.resident / MIB:.0f} MiB; "
            f"loaded in {first.seconds:.2f} s",
        ),
    ]


_barrier: Any = None


def _prepare(barrier: Any) -> None:
    global _barrier
    _barrier = barrier
    torch.set_num_threads(1)


def _load(task: tuple[str, str]) -> Loaded:
    folder, dtype = task
    started = time.perf_counter()
    model = family_of(folder).load(folder, dtype=getattr(torch, dtype), offload="encoders")
    seconds = time.perf_counter() - started
    batch = model.begin([Prompt(text="a cat", seed=0)], steps=4, guidance=1.0)
    model.advance(batch)
    _barrier.wait()
    (file,) = (Path(folder) / model.component).glob("*.safetensors")
    pages = _pages(file)
    every = _pages(None)
    _barrier.wait()
    return Loaded(
        seconds=seconds,
        file_bytes=file.stat().st_size,
        resident=pages["Rss:"],
        # Pages of a file that was just written are dirty; they are the page cache's, no copy.
        shared=pages["Shared_Clean:"] + pages["Shared_Dirty:"],
        own=every["Private_Clean:"] + every["Private_Dirty:"],
    )


def _pages(file: Path | None) -> Counter[str]:
    """Bytes by kind of page, of a file that this process has mapped, or of all its pages."""
    total: Counter[str] = Counter()
    counts = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            counts = file is None or words[-1] == str(file.resolve())
        elif counts and words[-1] == "kB":
            total[words[0]] += 1024 * int(words[1])
    return total
