"""The driver's loop: submit ready units, collect results, retry, give up on poison units."""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from ray.exceptions import (
    ActorUnavailableError,
    NodeDiedError,
    RayActorError,
    RayError,
    RayTaskError,
    TaskCancelledError,
)

from conceptprune.errors import NondeterminismError, NumericalError, UserError
from conceptprune.store import Commit, LostUnitError
from conceptprune.store.claims import Claim
from conceptprune.units.commit import Held
from conceptprune.units.unit import Unit

from .failures import meaning
from .graph import Graph
from .here import HerePool, HereSubmission
from .workers import Submission, WorkerPool

FINAL_ERRORS = (UserError, NumericalError, NondeterminismError)
"""Errors that another attempt would only repeat or hide: after a result that differs from the
committed one, it would find the committed one and use it."""

MAX_INTERRUPTIONS = 20
"""A unit whose machine was taken away this often is assumed to be the cause."""

SECONDS_BETWEEN_TICKS = 1.0
SECONDS_BETWEEN_LOOKS = 2.0
"""How often to look at a unit that another job is computing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The result of a unit."""

    unit: Unit
    status: Literal["done", "reused", "failed", "blocked"]
    """`reused`: another job computed it in the meantime."""
    attempts: int
    error: str | None = None
    commit: Commit | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """The state of the loop, about once per second."""

    in_flight: int
    actors: int
    """Number of actors that have started."""
    lacking: str | None
    """What units are waiting for that the cluster currently lacks."""
    retries: int
    """Failed attempts that were retried, not counting interruptions."""
    interruptions: int
    """Units whose machine was taken away, which does not count as an attempt."""
    lost: int
    """Committed units that were found damaged or missing, and computed again."""
    held: str | None = None
    """Which units other jobs are computing, and which jobs."""


OnResult = Callable[[Result], None]
OnTick = Callable[[Tick], None]
OnHeld = Callable[[Claim], None]
"""Called at every look, with each claim of another job that blocks a unit."""


def run_units(
    units: Iterable[Unit],
    pool: WorkerPool | HerePool,
    *,
    known: Mapping[str, Unit],
    max_attempts: int,
    on_result: OnResult,
    on_tick: OnTick = lambda _: None,
    on_held: OnHeld = lambda _: None,
) -> None:
    """Run units in dependency order, a bounded number at a time, until each has a result.

    A unit that fails `max_attempts` times, or once with a final error, only blocks units that need
    it; everything else continues. `known` are all units of the plan by key: if a committed one
    turns out to be lost, it is computed again.
    """
    _Loop(Graph.of(units), pool, known, max_attempts, on_result, on_tick, on_held).run()


def needs(failed: Unit) -> str:
    """Why a unit is blocked by a failed one."""
    return f"needs {failed.kind} {failed.key[:12]}, which failed"


class _Loop:
    def __init__(
        self,
        graph: Graph,
        pool: WorkerPool | HerePool,
        known: Mapping[str, Unit],
        max_attempts: int,
        on_result: OnResult,
        on_tick: OnTick,
        on_held: OnHeld,
    ) -> None:
        self.graph = graph
        self.pool = pool
        self.known = known
        self.max_attempts = max_attempts
        self.on_result = on_result
        self.on_tick = on_tick
        self.on_held = on_held
        self.attempts: Counter[str] = Counter()
        self.interruptions: Counter[str] = Counter()
        self.retries = 0
        self.lost = 0
        self.queues: dict[bool, deque[Unit]] = {True: deque(), False: deque()}
        """Units that can be handed out, for actors and for tasks separately: one may have to wait
        for room while the other has it."""
        self.held: list[tuple[float, Unit]] = []
        """Units that another job is computing, and when to look again."""
        self.claims: dict[str, Claim] = {}
        """The claims of those units at the last look, by key."""
        self._last_tick = 0.0

    def run(self) -> None:
        while True:
            self._return_held()
            self._submit_ready()
            self._tick()
            if not self.pool.in_flight and not self.held:
                return
            for submission in self.pool.wait(SECONDS_BETWEEN_TICKS):
                self._take(submission)

    def _tick(self) -> None:
        now = time.monotonic()
        if now - self._last_tick < SECONDS_BETWEEN_TICKS:
            return
        self._last_tick = now
        for unit in self.pool.refresh():
            self._hand_back(unit)
        self.on_tick(
            Tick(
                in_flight=self.pool.in_flight,
                actors=self.pool.alive,
                lacking=self.pool.lacking,
                retries=self.retries,
                interruptions=self.interruptions.total(),
                lost=self.lost,
                held=self._waits_for(),
            )
        )

    def _waits_for(self) -> str | None:
        if not self.claims:
            return None
        claim = next(iter(self.claims.values()))
        more = f" and {len(self.claims) - 1} more" if len(self.claims) > 1 else ""
        return (
            f"{claim.kind} {claim.key[:12]}{more}, which job {claim.job} on {claim.worker} is "
            "computing"
        )

    def _return_held(self) -> None:
        now = time.monotonic()
        due = [unit for at, unit in self.held if at <= now]
        self.held = [(at, unit) for at, unit in self.held if at > now]
        self.graph.ready.extend(due)

    def _submit_ready(self) -> None:
        while self.graph.ready:
            unit = self.graph.ready.popleft()
            self._queue(unit).append(unit)
        for queue in self.queues.values():
            while queue and self.pool.has_room(queue[0]):
                unit = queue.popleft()
                self.attempts[unit.key] += 1
                self.pool.submit(unit)
        self.pool.release_idle(self.graph.open_warm_units)

    def _queue(self, unit: Unit) -> deque[Unit]:
        return self.queues[unit.warm]

    def _take(self, submission: Submission | HereSubmission) -> None:
        unit = submission.unit
        self.claims.pop(unit.key, None)
        try:
            outcome = submission.result()
        except RayTaskError as error:
            self._failed(unit, error.cause if isinstance(error.cause, Exception) else error)
        except RayError as error:
            self._process_failed(submission, error)
        # Without Ray, a unit's own error arrives as it was raised.
        except Exception as error:
            self._failed(unit, error)
        else:
            if isinstance(outcome, Held):
                self.attempts[unit.key] -= 1
                self.held.append((time.monotonic() + SECONDS_BETWEEN_LOOKS, unit))
                self.claims[unit.key] = outcome.claim
                self.on_held(outcome.claim)
                return
            self.on_result(
                Result(
                    unit=unit,
                    status="done" if outcome.computed else "reused",
                    attempts=self.attempts[unit.key],
                    commit=outcome.commit,
                )
            )
            self.graph.finish(unit)

    def _failed(self, unit: Unit, error: Exception) -> None:
        """A unit has raised an error."""
        if isinstance(error, LostUnitError) and error.key in self.known:
            self._compute_again(self.known[error.key], unit, error)
        else:
            self._retry_or_fail(unit, error, final=isinstance(error, FINAL_ERRORS))

    def _process_failed(self, submission: Submission | HereSubmission, error: RayError) -> None:
        """A unit has no result because of its process or machine, or because of Ray."""
        assert isinstance(self.pool, WorkerPool)
        assert isinstance(submission, Submission)
        unit = submission.unit
        if isinstance(error, ActorUnavailableError):
            self._actor_gone(self.pool, submission)
            self._interrupted(unit, error)
        elif isinstance(error, RayActorError):
            if submission.waited or not self.pool.has(submission.slot):
                # It waited behind a unit whose result is handled next, or has just been handled.
                self._hand_back(unit)
                return
            self._actor_gone(self.pool, submission)
            if self.pool.was_taken_away(submission, error):
                self._interrupted(unit, error)
            else:
                self._retry_or_fail(unit, error, final=False)
        elif isinstance(error, NodeDiedError | TaskCancelledError):
            self._interrupted(unit, error)
        else:
            self._retry_or_fail(unit, error, final=False)

    def _actor_gone(self, pool: WorkerPool, submission: Submission) -> None:
        # Only the running unit can have killed its actor: the one waiting behind it goes back
        # without using up an attempt.
        for waiting in pool.drop(submission):
            self._hand_back(waiting)

    def _hand_back(self, unit: Unit) -> None:
        self.attempts[unit.key] -= 1
        self._queue(unit).appendleft(unit)

    def _interrupted(self, unit: Unit, error: Exception) -> None:
        self.interruptions[unit.key] += 1
        if self.interruptions[unit.key] > MAX_INTERRUPTIONS:
            self._retry_or_fail(unit, error, final=False)
        else:
            self._hand_back(unit)

    def _compute_again(self, lost: Unit, unit: Unit, error: LostUnitError) -> None:
        """Compute `lost` again; this is not the fault of `unit`, which needs it."""
        self.attempts[unit.key] -= 1
        self.lost += 1
        if not self.graph.put_back(lost, unit):
            return
        if self.attempts[lost.key] >= self.max_attempts:
            self._fail(lost, error)
        else:
            self._queue(lost).appendleft(lost)

    def _retry_or_fail(self, unit: Unit, error: Exception, *, final: bool) -> None:
        if not final and self.attempts[unit.key] < self.max_attempts:
            self.retries += 1
            self._queue(unit).appendleft(unit)
            return
        self._fail(unit, error)

    def _fail(self, unit: Unit, error: Exception) -> None:
        attempts = self.attempts[unit.key]
        self.on_result(Result(unit=unit, status="failed", attempts=attempts, error=meaning(error)))
        for blocked in self.graph.fail(unit):
            self.on_result(
                Result(
                    unit=blocked,
                    status="blocked",
                    attempts=0,
                    error=needs(unit),
                )
            )
