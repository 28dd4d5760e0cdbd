"""Exit codes: a command's result for a shell, CI or a scheduler."""

from typing import Final

DONE: Final = 0
FAILED: Final = 1
"""Some of the work could not be done, or the store or cluster failed: running it again may help."""
BAD_INPUT: Final = 2
"""Nothing was done: the input must be changed."""
DETACHED: Final = 130
"""The shell's code for Ctrl-C: the job of `submit` continues, and its result is unknown."""
INTERRUPTED: Final = 130
"""Stopped by Ctrl-C (SIGINT): what was finished by then stays."""
TERMINATED: Final = 143
"""Stopped by SIGTERM, as a scheduler does: what was finished by then stays."""


def of_job(failed: bool) -> int:
    """The exit code of a job that has ended."""
    return FAILED if failed else DONE
