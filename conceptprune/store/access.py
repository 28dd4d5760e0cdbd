"""How a store's operations are tried: with patience for passing faults, and one kind of error.

Nothing waits for ever. A try has a bound on its whole time, however its connection behaves (a
timeout of a socket is no such bound: it starts again with every byte, and botocore's
`Expect: 100-continue` disarms it while a body waits to be sent). No try begins after the deadline
of its operation, and the last one ends with it. What moves many bytes gets more time for both.
"""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import TypeVar

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_before_delay,
    wait_random_exponential,
)

from conceptprune import progress
from conceptprune.errors import StoreError, UserError
from conceptprune.redaction import redacted

DEADLINE_VARIABLE = "CONCEPTPRUNE_STORE_DEADLINE"
DEADLINE = 300.0
"""Seconds for which one operation is tried again, unless the environment says otherwise."""
FIRST_WAIT = 0.1
LONGEST_WAIT = 20.0
"""A wait before try n is drawn evenly from 0 to FIRST_WAIT * 2**n, at most LONGEST_WAIT."""

TRIES = 3
"""A try may take this part of the deadline, so that one lost answer does not use it up."""
SHORTEST_TRY = 10.0
LONGEST_TRY = 30.0
"""Bounds of that part in seconds; a deadline below SHORTEST_TRY still allows one such try."""
SLOWEST = 2**20
"""Bytes a second: an operation on so many bytes gets a second more for each try and in all."""

SILENCE = 15.0
"""Seconds after which an operation that is still being tried is no longer only for the curious."""

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
    if isinstance(error, TimeoutError) and not strerror:
        return str(error)
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
        """`within`, for a function that cannot be told how long it may take."""
        return self.within(operation, lambda _: function())

    def within(self, operation: str, function: Callable[[float], T], *, size: int = 0) -> T:
        """What `function` returns; tried again with growing random waits until the deadline.

        Args:
            operation: its verb and its object, for messages.
            function: one try; it is told the seconds after which it has to end, and then raises
                TimeoutError.
            size: how many bytes it moves, as far as is known.

        Raises:
            StoreError: a fault stayed; it names the store, the operation and the last error.
        """
        started = perf_counter()
        allowance = size / SLOWEST
        deadline = self.deadline + allowance
        longest = min(max(self.deadline / TRIES, SHORTEST_TRY), LONGEST_TRY) + allowance

        def attempt() -> T:
            left = deadline - (perf_counter() - started)
            seconds = min(longest, max(left, SHORTEST_TRY))
            try:
                return function(seconds)
            except TimeoutError as error:
                if str(error):
                    raise
                raise TimeoutError(f"no answer within {seconds:.0f} s") from error

        retrying = Retrying(
            retry=retry_if_exception(self.passes),
            wait=wait_random_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT),
            stop=stop_before_delay(deadline),
            before_sleep=lambda state: self._log(operation, state),
            reraise=True,
        )
        try:
            return retrying(attempt)
        except self.failures as error:
            reason = redacted(self.reason_of(error))
            tried = f" (tried for {deadline:.4g} s)" if self.passes(error) else ""
            # From None: what lies below may show more of a request than belongs into a log.
            raise StoreError(f"{self.uri}: cannot {operation}: {reason}{tried}") from None
        finally:
            progress.made()
            if self.observer:
                self.observer(operation.split()[0], perf_counter() - started)

    def _log(self, operation: str, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        waited = state.seconds_since_start or 0.0
        if isinstance(error, Exception):
            logger.log(
                logging.WARNING if waited >= SILENCE else logging.INFO,
                "%s: %s failed for %.0f s, trying again: %s",
                self.uri,
                operation,
                waited,
                redacted(self.reason_of(error)),
            )
