"""Whether this process makes progress: a count of steps of any kind.

A worker does one unit at a time. It makes progress while denoiser calls are made and store
operations finish; a worker stuck on a device, a lock or a network drive does neither.
"""

import itertools

_steps = itertools.count(1)
_made = 0


def made() -> None:
    """Count a step: a denoiser call or a store operation."""
    global _made
    # `next` is atomic across threads; `+= 1` is not.
    _made = next(_steps)


def steps() -> int:
    """Steps made by this process so far; only changes in it have a meaning."""
    return _made
