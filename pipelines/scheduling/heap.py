"""Memory of a process whose activations are on the CPU."""

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""glibc's names of what `mallopt` sets."""
_LARGEST = (1 << 31) - 1
_LARGEST_ON_HEAP = (1 << 30, 1 << 25)
"""Bytes; older releases of glibc accept only the second."""


def keep_freed_memory() -> bool:
    """Let the C library keep what is freed for what is allocated next; returns whether it does.

    Every call of a denoiser allocates the same activations again. glibc gives larger ones back to
    the system each time, and fresh pages cost a tenth of the time. Without glibc, nothing is
    changed: other C libraries have no such setting.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    accepted = any(mallopt(_MMAP_THRESHOLD, size) for size in _LARGEST_ON_HEAP)
    return accepted and bool(mallopt(_TRIM_THRESHOLD, _LARGEST))
