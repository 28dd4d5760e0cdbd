"""How a store's operations are tried: with patience for passing faults, and one kind of error."""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_before_delay,
    wait_random_exponential,
)

from conceptprune.errors import StoreError, UserError
from conceptprune.store.credentials import redacted

DEADLINE_VARIABLE = "CONCEPTPRUNE_STORE_DEADLINE"
DEADLINE = 300.0
"""Seconds for which one operation is tried again, unless the environment says otherwise."""
FIRST_WAIT = 0.1
LONGEST_WAIT = 20.0
"""A wait before try n is drawn evenly from 0 to FIRST_WAIT * 2**n, at most LONGEST_WAIT."""

logger = logging.getLogger("conceptprune.store")

T = TypeVar("T")

Observer = Callable[[str, float], None]
"""Told of every operation that has ended: its verb (read, write, list, ...) and its seconds."""


def deadline_from_environment() -> float:
    """Seconds for which operations are tried, from CONCEPTPRUNE_STORE_DEADLINE or the default.

    Raises:
        UserError: it is not a number of seconds.
    """
    text = os.environ.get(DEADLINE_VARIABLE, str(DEADLINE))
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise UserError(f"{DEADLINE_VARIABLE}={text}: give a number of seconds")
    return seconds


def passes(error: BaseException) -> bool:
    """Whether an error may be gone at the next try."""
    return isinstance(error, ConnectionError | TimeoutError)


def reason_of(error: Exception) -> str:
    """An error in a few words."""
    strerror = getattr(error, "strerror", None)
    return str(strerror or f"{type(error).__name__}: {error}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Runs operations on one store."""

    uri: str
    deadline: float
    failures: tuple[type[Exception], ...] = (OSError,)
    """What an operation may raise when the store, and not this program, is at fault."""
    passes: Callable[[BaseException], bool] = passes
    reason_of: Callable[[Exception], str] = reason_of
    observer: Observer | None = None

    def __call__(self, operation: str, function: Callable[[], T]) -> T:
        """What `function` returns; tried again with growing random waits until the deadline.

        Raises:
            StoreError: a fault stayed; it names the store, the operation and the last error.
        """
        retrying = Retrying(
            retry=retry_if_exception(self.passes),
            wait=wait_random_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT),
            stop=stop_before_delay(self.deadline),
            before_sleep=lambda state: self._log(operation, state),
            reraise=True,
        )
        started = time.perf_counter()
        try:
            return retrying(function)
        except self.failures as error:
            reason = redacted(self.reason_of(error))
            tried = f" (tried for {self.deadline:g} s)" if self.passes(error) else ""
            # From None: what lies below may show more of a request than belongs into a log.
            raise StoreError(f"{self.uri}: cannot {operation}: {reason}{tried}") from None
        finally:
            if self.observer:
                self.observer(operation.split()[0], time.perf_counter() - started)

    def _log(self, operation: str, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, Exception):
            reason = redacted(self.reason_of(error))
            logger.info("%s: %s failed, trying again: %s", self.uri, operation, reason)
