"""The driver's loop: submit what is ready, take what is done, retry, give up on poison units."""

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import ray
from ray.exceptions import RayActorError, RayTaskError

from conceptprune.errors import NumericalError, UserError
from conceptprune.store import Commit
from conceptprune.work import Work
from pipelines.graph import Graph
from pipelines.workers import ActorSlot, WorkerPool, needs_denoiser

FINAL_ERRORS = (UserError, NumericalError)
"""Errors that another attempt would only repeat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of a unit."""

    work: Work
    status: Literal["done", "failed", "blocked"]
    attempts: int
    error: str | None = None
    commit: Commit | None = None


OnResult = Callable[[Result], None]


def run_units(
    units: Iterable[Work], pool: WorkerPool, *, max_attempts: int, on_result: OnResult
) -> None:
    """Run units in dependency order, a bounded number at a time, until each has a result.

    A unit that fails `max_attempts` times, or once for good, fails alone: only units that need it
    are blocked, everything else goes on.
    """
    _Loop(Graph.of(units), pool, max_attempts, on_result).run()


class _Loop:
    def __init__(
        self, graph: Graph, pool: WorkerPool, max_attempts: int, on_result: OnResult
    ) -> None:
        self.graph = graph
        self.pool = pool
        self.max_attempts = max_attempts
        self.on_result = on_result
        self.attempts: Counter[str] = Counter()

    def run(self) -> None:
        while True:
            self._submit_ready()
            if not self.pool.refs:
                return
            finished, _ = ray.wait(self.pool.refs, num_returns=1)
            self._take(finished[0])

    def _submit_ready(self) -> None:
        held: deque[Work] = deque()
        while self.graph.ready:
            work = self.graph.ready.popleft()
            if self.pool.has_room(work):
                self.attempts[work.key] += 1
                self.pool.submit(work)
            else:
                held.append(work)
        self.graph.ready = held
        if not any(needs_denoiser(work) for work in held):
            self.pool.release_idle()

    def _take(self, ref: object) -> None:
        work, slot = self.pool.collect(ref)
        try:
            commit = ray.get(ref)
        except RayActorError as error:
            self._actor_died(work, slot, error)
        except RayTaskError as error:
            cause = error.cause if isinstance(error.cause, Exception) else error
            self._retry_or_fail(work, cause, final=isinstance(cause, FINAL_ERRORS))
        except ray.exceptions.RayError as error:
            self._retry_or_fail(work, error, final=False)
        else:
            self.on_result(
                Result(work=work, status="done", attempts=self.attempts[work.key], commit=commit)
            )
            self.graph.finish(work)

    def _actor_died(self, work: Work, slot: ActorSlot | None, error: Exception) -> None:
        # Only the unit that was running can have killed its actor: the one waiting behind it goes
        # back without having used up an attempt.
        for waiting in self.pool.drop(slot) if slot else []:
            self.attempts[waiting.key] -= 1
            self.graph.ready.appendleft(waiting)
        self._retry_or_fail(work, error, final=False)

    def _retry_or_fail(self, work: Work, error: Exception, *, final: bool) -> None:
        attempts = self.attempts[work.key]
        if not final and attempts < self.max_attempts:
            self.graph.ready.appendleft(work)
            return
        message = f"{type(error).__name__}: {error}".strip()
        self.on_result(Result(work=work, status="failed", attempts=attempts, error=message))
        for blocked in self.graph.fail(work):
            self.on_result(
                Result(
                    work=blocked,
                    status="blocked",
                    attempts=0,
                    error=f"needs {work.kind} {work.key[:12]}, which failed",
                )
            )
