"""What a failure means, in one line: Ray's message about a dead worker is long and not for records.

The memory monitor's message lists the command lines of all processes on the machine, including
those of other users. None of that may get into a ledger, a status or a page.
"""

import re

from ray.exceptions import (
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)

MAX_CHARS = 2000
"""Limit for an error's own text in a row of the ledger."""

LESS_MEMORY = "fewer compute.actors per machine, a smaller collection.batch_size, or more memory"

_USED = re.compile(r"was (\d[\d.]*\s?[KMGT]i?B) / (\d[\d.]*\s?[KMGT]i?B)")
_EXIT = re.compile(r"Worker exit type: (\w+)")


def meaning(error: Exception) -> str:
    """The type of an error, and what it means to a reader of the ledger."""
    return f"{type(error).__name__}: {_told(error)}"


def _told(error: Exception) -> str:
    text = str(error)
    if not isinstance(error, RayError):
        return _short(text)
    if isinstance(error, OutOfMemoryError) or "low on memory" in text:
        used = _USED.search(text)
        how_much = f" ({used[1]} of {used[2]} in use)" if used else ""
        return f"the machine ran low on memory{how_much}, and Ray ended this worker: {LESS_MEMORY}"
    if isinstance(error, RayActorError) and error.actor_init_failed:
        return f"a worker could not be set up: {_short(_last_line(text))}"
    if isinstance(error, RayTaskError):
        return _short(_last_line(text))
    if isinstance(error, NodeDiedError):
        return "its machine went away"
    if isinstance(error, RayActorError | WorkerCrashedError):
        exit_type = _EXIT.search(text)
        how = f" ({exit_type[1]})" if exit_type else ""
        return (
            f"its worker process died without a message{how}: ended by hand, or by the system, "
            f"usually for lack of memory ({LESS_MEMORY})"
        )
    return _short(text.partition("\n")[0])


def _last_line(text: str) -> str:
    """The error itself, from a traceback."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _short(text: str) -> str:
    text = text.strip()
    return text if len(text) <= MAX_CHARS else f"{text[:MAX_CHARS]} [...]"
