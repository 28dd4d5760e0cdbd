"""Exit codes: what a shell, CI or a scheduler learns of a command."""

from typing import Final

DONE: Final = 0
FAILED: Final = 1
"""Some of the work could not be done, or the store or cluster failed: running it again may help."""
BAD_INPUT: Final = 2
"""Nothing was done: the input must be changed."""
DETACHED: Final = 130
"""What a shell makes of Ctrl-C: `submit`'s job goes on, its verdict is not known."""
INTERRUPTED: Final = 130
"""Stopped by Ctrl-C (SIGINT): what was finished by then stays."""
TERMINATED: Final = 143
"""Stopped by SIGTERM, as a scheduler does: what was finished by then stays."""


def of_job(failed: bool) -> int:
    """The code of a job that came to its end."""
    return FAILED if failed else DONE
