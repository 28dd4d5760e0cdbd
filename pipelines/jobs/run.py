"""Run any plan of units on a cluster: compute what is missing, and keep the ledger."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Console

from conceptprune.manifest import Compute
from conceptprune.store import Store
from conceptprune.units.unit import Unit
from conceptprune.units.unit_plan import UnitPlan

from ..console.logs import say, say_failure
from ..records.journal import Journal
from ..records.reuse import find_units
from ..records.trail import job_began, job_ended
from ..scheduling.cluster import any_is_up, connected
from ..scheduling.here import HerePool
from ..scheduling.loop import Result, Tick, needs, run_units
from ..scheduling.metrics import JobMetrics
from ..scheduling.others import OtherJobs
from ..scheduling.watchdog import LastNode, Patience, Watchdog
from ..scheduling.workers import RunnerSpec, WorkerPool
from .progress import JobProgress

OnResult = Callable[[Result], None]
OnTick = Callable[[Tick], None]
Then = Callable[[Mapping[str, Result]], UnitPlan | None]
"""From the results by key to a plan that extends the previous one, or None."""
RunUnits = Callable[[Sequence[Unit], Mapping[str, Unit], OnResult, OnTick], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The outcome of a plan; `rows` is its ledger."""

    computed: int
    reused: int
    rows: list[dict[str, Any]]

    @property
    def failed(self) -> bool:
        """Whether a unit has no result."""
        return any(row["status"] in ("failed", "blocked") for row in self.rows)

    def as_json(self) -> dict[str, Any]:
        """The number of units by status, for programs."""
        counts = Counter(row["status"] for row in self.rows)
        return {
            "computed": self.computed,
            "reused": self.reused,
            "failed": counts["failed"],
            "blocked": counts["blocked"],
        }


def tell_outcome(
    console: Console, title: str, outcome: Outcome, seconds: float, store: str
) -> None:
    """Print the failed units of a plan, one per line, and how much was computed.

    The last line distinguishes a failed run from one that had nothing to do, since both may compute
    no unit.
    """
    for row in outcome.rows:
        if row["status"] == "failed":
            names = ", ".join(row["concepts"])
            say_failure(
                console,
                f"failed: {row['kind']} {row['key'][:12]} ({names}) after {row['attempts']} "
                f"attempts: {row['error']}",
                kind=row["kind"],
                key=row["key"],
                concepts=names,
            )
    counts = Counter(row["status"] for row in outcome.rows)
    start, without = "", ""
    if outcome.failed:
        start = "failed: "
        without = f", {counts['failed']} failed, {counts['blocked']} blocked"
    elif not outcome.computed:
        start = "nothing to compute: "
    tell = say_failure if outcome.failed else say
    tell(
        console,
        f"{start}{title}: {outcome.computed} units computed, {outcome.reused} reused{without}, "
        f"{seconds:.0f} s, store {store}",
    )


def run_plan(
    plan: UnitPlan,
    store: Store,
    run: RunUnits,
    console: Console,
    job: str,
    *,
    command: str,
    asked: Any,
    parts: str = "concepts",
    known: Sequence[Result] = (),
    verify: bool = False,
    then: Then = lambda _: None,
) -> Outcome:
    """Run what the store lacks of a plan, with a ledger and progress; `parts` is what it is for.

    `command` and `asked` are on record as what the job was to do: its name, and its manifest or
    suite. Units whose results are `known` already, good or bad, are not tried. With `verify`,
    results that are there are read in full. `then` is told the results, and may go on with a
    larger plan.
    """
    found = find_units(plan, store, verify=verify)
    before = {result.unit.key: result for result in known}
    reused = {key: made for key, made in found.reused.items() if key not in before}
    todo = before.keys() | {unit.key for unit in found.todo}
    units = [unit for unit in plan.units() if unit.key in todo]
    journal = Journal(store, plan, job, todo=todo, reused=reused)
    journal.results.update(before)
    job_began(store, run=plan.run, job=job, command=command, asked=asked)
    journal.begin()
    try:
        if units:
            with JobProgress(console, plan, units, parts) as progress:

                def on_result(result: Result) -> None:
                    journal.results[result.unit.key] = result
                    progress.advance(result)

                for result in known:
                    progress.advance(result)
                left = [unit for unit in units if unit.key not in before]
                if left:
                    run(left, plan.by_key, on_result, journal.on_tick)
        larger = then(journal.results)
        if larger is not None:
            _go_on(plan, larger, journal, store, run, console, parts)
    except BaseException:
        # Also when the job is told to stop (a termination signal is a SystemExit here): what
        # has been done so far is on record.
        stopped = journal.end("stopped")
        job_ended(store, run=plan.run, job=job, state="stopped", rows=stopped)
        raise
    # Units made before the plan was known do not count towards its cost.
    results = [r for key, r in journal.results.items() if r.error or key not in before]
    state: Literal["failed", "done"] = (
        "failed" if any(result.error for result in results) else "done"
    )
    rows = journal.end(state)
    job_ended(store, run=plan.run, job=job, state=state, rows=rows)
    computed = sum(result.status == "done" for result in results)
    return Outcome(
        computed=computed,
        reused=len(journal.reused) + len(results) - computed - sum(bool(r.error) for r in results),
        rows=rows,
    )


def _go_on(
    plan: UnitPlan,
    larger: UnitPlan,
    journal: Journal,
    store: Store,
    run: RunUnits,
    console: Console,
    parts: str,
) -> None:
    """Run the units that `larger` adds to `plan`, except those that need a failed unit."""
    more = [unit for key, unit in larger.by_key.items() if key not in plan.by_key]
    found = find_units(larger, store)
    todo = {unit.key for unit in found.todo} & {unit.key for unit in more}
    reused = {unit.key: made for unit in more if (made := found.reused.get(unit.key))}
    failed = {key: result for key, result in journal.results.items() if result.error}
    journal.extend(larger, todo=todo, reused=reused)
    for unit in more:
        cause = next((failed[key] for _, key in unit.needs if key in failed), None)
        if unit.key in todo and cause:
            error = cause.error if cause.status == "blocked" else needs(cause.unit)
            blocked = Result(unit=unit, status="blocked", attempts=0, error=error)
            journal.results[unit.key] = failed[unit.key] = blocked
    left = [unit for unit in more if unit.key in todo and unit.key not in failed]
    if not left:
        return
    with JobProgress(console, larger, left, parts) as progress:

        def on_result(result: Result) -> None:
            journal.results[result.unit.key] = result
            progress.advance(result)

        run(left, larger.by_key, on_result, journal.on_tick)


@contextmanager
def unit_runner(spec: RunnerSpec, compute: Compute, store: Store) -> Iterator[RunUnits]:
    """A function that runs units on the cluster; its first call connects to the cluster.

    Without actors there is no cluster: the units run in this process.
    """
    with ExitStack() as joined:
        own = False

        def run(
            units: Sequence[Unit],
            known: Mapping[str, Unit],
            on_result: OnResult,
            on_tick: OnTick,
        ) -> None:
            nonlocal own
            pool: WorkerPool | HerePool
            if compute.actors:
                own = joined.enter_context(connected(compute)) or own
                pool = WorkerPool(spec, compute)
            else:
                pool = HerePool(spec)
            metrics = JobMetrics()
            left = {unit.key for unit in units}

            def counted(result: Result) -> None:
                left.discard(result.unit.key)
                metrics.unit(
                    kind=result.unit.kind,
                    status=result.status,
                    attempts=result.attempts,
                    evaluations=result.unit.evaluations,
                )
                metrics.now(units_left=len(left), actors=pool.alive)
                on_result(result)

            patience = Patience()
            last_node = LastNode()
            patience_with_others = Patience(waiting_for="another job")
            with Watchdog() as watchdog, OtherJobs(store) as others:

                def beat(tick: Tick) -> None:
                    watchdog.beat()
                    if own:
                        last_node.look(any_is_up())
                    patience.look(tick.lacking)
                    patience_with_others.look(tick.held)
                    metrics.now(units_left=len(left), actors=tick.actors)
                    metrics.interrupted(tick.interruptions)
                    on_tick(tick)

                try:
                    run_units(
                        units,
                        pool,
                        known=known,
                        max_attempts=compute.max_attempts,
                        on_result=counted,
                        on_tick=beat,
                        on_held=others.held,
                    )
                finally:
                    pool.close()
                    metrics.now(units_left=len(left), actors=0)

        yield run
