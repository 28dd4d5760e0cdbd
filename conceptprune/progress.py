"""Whether this process gets on with its work: a count of steps, whoever makes them.

A worker does one unit at a time. It gets on as long as the denoiser is evaluated and the store's
operations end; one that is stuck on a device, a lock or a network drive does neither.
"""

import itertools

_steps = itertools.count(1)
_made = 0


def made() -> None:
    """Take note of a step: a call of the denoiser, an operation on the store."""
    global _made
    # `next` is one step for all threads, which `+= 1` is not.
    _made = next(_steps)


def steps() -> int:
    """Steps made by this process so far; only whether it changes means anything."""
    return _made
