"""End a driver whose cluster has stopped answering, and warn if it has no room for the job."""

import logging
import os
import threading
import time
from types import TracebackType
from typing import Self

from conceptprune.errors import ClusterError

from ..console import exits

SECONDS_OF_SILENCE = 120.0
"""Twice Ray's own timeout for a head that is gone; for a hanging one, Ray waits forever."""
LOOKS = 24
SECONDS_OF_PATIENCE = 60.0
"""A new node takes minutes to start, so waiting is not an error, but cannot be told from one. The
same holds for waiting for another job that computes what this one needs."""

LOOKS_AT_THE_LAST_NODE = 10
"""A second apart."""

logger = logging.getLogger("conceptprune.job")


class Patience:
    """Warns repeatedly about what a job has been waiting for without interruption."""

    def __init__(
        self,
        seconds: float = SECONDS_OF_PATIENCE,
        *,
        waiting_for: str = "room in the cluster",
    ) -> None:
        self.seconds = seconds
        self.waiting_for = waiting_for
        self._since: float | None = None

    def look(self, lacking: str | None) -> None:
        """Record what the job currently lacks, if anything."""
        now = time.monotonic()
        if lacking is None:
            self._since = None
        elif self._since is None:
            self._since = now
        elif now - self._since >= self.seconds:
            self._since = now
            logger.warning("waiting for %s: %s", self.waiting_for, lacking)


class LastNode:
    """Ends a job whose cluster has lost its only node, and never gets another."""

    def __init__(self) -> None:
        self._gone = 0

    def look(self, is_up: bool) -> None:
        """Take note of whether the node is up just now.

        Raises:
            ClusterError: it was not, so often that this is no passing fault.
        """
        self._gone = 0 if is_up else self._gone + 1
        if self._gone >= LOOKS_AT_THE_LAST_NODE:
            raise ClusterError(
                "the local Ray cluster has lost its node (its raylet or its agent died, as a rule "
                "for lack of memory): run again, what is done is kept"
            )


class Watchdog:
    """Inside the context, ends this process with exit code 1 unless `beat` is called regularly.

    There is no other way to end a call into Ray that does not return. Nothing is lost: what is
    committed stays, and the next job continues from there.
    """

    def __init__(self, seconds: float = SECONDS_OF_SILENCE) -> None:
        self.seconds = seconds
        self._silent = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def beat(self) -> None:
        """Report progress."""
        self._silent = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        # Count looks instead of seconds, so that a suspended process does not count as silence.
        while not self._done.wait(self.seconds / LOOKS):
            self._silent += 1
            if self._silent > LOOKS:
                logger.critical(
                    "no answer from the Ray cluster for %g s: given up; run again, what is "
                    "done is kept",
                    self.seconds,
                )
                os._exit(exits.FAILED)
