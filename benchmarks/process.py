"""Peak memory of a piece of work, measured in a process of its own (Linux)."""

import ctypes
import gc
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

MIB = 1 << 20


def in_own_process(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `work` in a fresh Python with one thread, to time it and see how its memory rises."""
    return _spawn(_use_one_thread, partial(work, *args, **kwargs))


def in_own_lean_process(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `work`, more slowly, in a fresh Python that returns freed memory to the system."""
    return _spawn(_give_back_what_is_freed, partial(work, *args, **kwargs))


def in_own_bare_process(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `work` in a fresh Python that imports only what `work` does."""
    return _spawn(_prepare_nothing, partial(work, *args, **kwargs))


def _spawn(prepare: Callable[[], None], work: Callable[[], T]) -> T:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=prepare) as pool:
        return pool.submit(work).result()


def _prepare_nothing() -> None:
    pass


def _use_one_thread() -> None:
    # Imported here, because what is measured may not need it.
    import torch

    torch.set_num_threads(1)


def _give_back_what_is_freed() -> None:
    """Let glibc return every larger block to the system when it is freed.

    Otherwise holes in its heap, which differ from run to run, would count as memory in use.
    """
    _use_one_thread()
    mmap_threshold = -3
    ctypes.CDLL(None).mallopt(mmap_threshold, 1 << 16)


class PeakMemory:
    """How far resident memory rose above its level at the start, at its highest."""

    def __init__(self) -> None:
        gc.collect()
        # "5" makes the kernel forget the peak so far. The counter of getrusage cannot be reset,
        # and a child even inherits its parent's.
        Path("/proc/self/clear_refs").write_text("5")
        self._start = _status("VmRSS")

    def mib(self) -> float:
        """The rise so far, in MiB."""
        return (_status("VmHWM") - self._start) / MIB


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise OSError(f"/proc/self/status has no {field}")
