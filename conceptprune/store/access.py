"""How a store's operations are run: transient errors are retried, and all others become one kind.

Nothing waits forever. Each try has a limit on its total time, however its connection behaves. (A
socket timeout is no such limit: it restarts with every byte, and botocore's `Expect: 100-continue`
disables it while a body waits to be sent.) No try begins after its operation's deadline, and the
last one ends with it. Operations on many bytes get more time for both.
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
"""Seconds for which an operation is retried, unless the environment says otherwise."""
FIRST_WAIT = 0.1
LONGEST_WAIT = 20.0
"""The wait before try n is uniform from 0 to FIRST_WAIT * 2**n, at most LONGEST_WAIT."""

TRIES = 3
"""One try may take 1/TRIES of the deadline, so that a lost answer does not use it up."""
SHORTEST_TRY = 10.0
LONGEST_TRY = 30.0
"""Limits of one try in seconds; a deadline below SHORTEST_TRY still allows one such try."""
SLOWEST = 2**20
"""Bytes per second: time limits grow by one second per this many bytes."""

SILENCE = 15.0
"""Seconds after which a retried operation is logged as a warning."""

logger = logging.getLogger("conceptprune.store")

T = TypeVar("T")

Observer = Callable[[str, float], None]
"""Called after every operation with its verb (read, write, list, ...) and its seconds."""


def deadline_from_environment() -> float:
    """Seconds for which operations are retried: CONCEPTPRUNE_STORE_DEADLINE, or the default.

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
    """Whether an error may be transient."""
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
    """What an operation may raise when the store is at fault, not this program."""
    passes: Callable[[BaseException], bool] = passes
    reason_of: Callable[[Exception], str] = reason_of
    observer: Observer | None = None

    def __call__(self, operation: str, function: Callable[[], T]) -> T:
        """`within`, for a function that takes no time limit."""
        return self.within(operation, lambda _: function())

    def within(self, operation: str, function: Callable[[float], T], *, size: int = 0) -> T:
        """Return `function`'s result; retry it with growing random waits until the deadline.

        Args:
            operation: verb and object, for messages.
            function: one try; its argument is a time limit in seconds, after which it raises
                TimeoutError.
            size: how many bytes it moves, if known.

        Raises:
            StoreError: the error persisted; names the store, the operation and the last error.
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
            # From None: the underlying error may show parts of a request that must not be logged.
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
