"""The erase job: prompts, collection, reduction, selection, outputs; one pass, safe to rerun."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from conceptprune.plan import Plan, collection_settings, run_id
from conceptprune.prompt_table import pairs_from_table
from conceptprune.prompts import PromptPair
from conceptprune.store import LostWorkError, Store, parquet_to_table
from conceptprune.work import Work
from pipelines.cluster import connected
from pipelines.graph import committed_in, units_to_do
from pipelines.journal import Journal, new_job
from pipelines.ledger import RunRecord, reused_units
from pipelines.logs import LogFormat
from pipelines.metrics import JobMetrics, StoreMetrics
from pipelines.preparation import Prepared
from pipelines.progress import JobProgress
from pipelines.schedule import Result, Tick, run_units
from pipelines.watchdog import Watchdog
from pipelines.workers import WorkerPool, WorkerSpec

LOOKS_AT_PROMPTS = 3

OnResult = Callable[[Result], None]
OnTick = Callable[[Tick], None]
Evaluations = Callable[[Work], int]
"""Denoiser evaluations of a unit."""
RunUnits = Callable[[Sequence[Work], Mapping[str, Work], OnResult, OnTick, Evaluations], None]


class PromptsFailedError(RuntimeError):
    """Prompts could not be made, so there is nothing to plan."""


@dataclass(slots=True)
class JobResult:
    """What a job did; `rows` is the ledger."""

    plan: Plan
    seconds: float
    computed: int
    reused: int
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether anything is missing, a concept or what is made of all of them."""
        return any(row["status"] in ("failed", "blocked") for row in self.rows)

    @property
    def failed_concepts(self) -> list[str]:
        """Concepts that miss something, in the manifest's order."""
        bad = {
            name
            for row in self.rows
            if row["status"] in ("failed", "blocked")
            for name in row["concepts"]
        }
        return [c.concept.name for c in self.plan.concepts if c.concept.name in bad]


def run_job(
    prepared: Prepared, store_uri: str, console: Console, form: LogFormat = "plain"
) -> JobResult:
    """Run a prepared manifest against a store on the Ray cluster at hand, or on a local one.

    Where everything is in the store already, no cluster is asked for.

    Raises:
        PromptsFailedError: prompts could not be made.
        StoreError: the store cannot be read or written.
    """
    started = time.time()
    job = new_job()
    store = Store(store_uri, StoreMetrics())
    store.check()
    with _runner(prepared, store_uri, job, form) as run:
        plan = prepared.plan(_prompts(prepared, store, run))
        RunRecord(
            run=plan.run,
            manifest=prepared.manifest.model_dump(mode="json", exclude={"model"}),
            model_label=prepared.model.source.label,
            model_identity=prepared.model.identity,
            language_model=prepared.model.language_model,
            pipeline=prepared.model.pipeline,
            denoiser_weights=prepared.denoiser_weights,
            started=started,
        ).write(store)
        return _run_plan(plan, store, run, console, job, started)


def _run_plan(
    plan: Plan, store: Store, run: RunUnits, console: Console, job: str, started: float
) -> JobResult:
    committed = committed_in(store)
    units = units_to_do(plan, committed)
    todo = {unit.key for unit in units}
    reused = reused_units(plan, store, todo, committed)
    journal = Journal(store, plan, job, todo=todo, reused=reused)
    journal.begin()
    try:
        if units:
            with JobProgress(console, plan, units) as progress:

                def on_result(result: Result) -> None:
                    journal.results[result.work.key] = result
                    progress.advance(result)

                known = {unit.key: unit for unit in plan.units()}
                run(units, known, on_result, journal.on_tick, plan.evaluations)
    except BaseException:
        # Also when the job is told to stop (Ray turns a termination signal into SystemExit): what
        # has been done so far is on record.
        journal.end("stopped")
        raise
    results = journal.results.values()
    rows = journal.end("failed" if any(result.error for result in results) else "done")
    computed = sum(result.status == "done" for result in results)
    return JobResult(
        plan=plan,
        seconds=time.time() - started,
        computed=computed,
        reused=len(reused) + len(results) - computed - sum(bool(r.error) for r in results),
        rows=rows,
    )


def _prompts(prepared: Prepared, store: Store, run: RunUnits) -> dict[str, tuple[PromptPair, ...]]:
    units = prepared.prompts_units()
    known: Mapping[str, Work] = {unit.key: unit for unit in units}
    committed = committed_in(store)
    todo = [unit for unit in units if not committed(unit.kind, unit.key)]
    for look in range(LOOKS_AT_PROMPTS):
        errors: list[str] = []

        def on_result(result: Result, errors: list[str] = errors) -> None:
            if result.error:
                errors.append(result.error)

        if todo:
            run(todo, known, on_result, lambda _: None, lambda _: 0)
        if errors:
            raise PromptsFailedError("\n".join(f"prompts could not be made: {e}" for e in errors))
        pairs: dict[str, tuple[PromptPair, ...]] = {}
        todo = []
        for unit in units:
            try:
                data = store.load(store.get(unit.kind, unit.key), "prompts")
            except LostWorkError:
                if look == LOOKS_AT_PROMPTS - 1:
                    raise
                todo.append(unit)
            else:
                pairs |= pairs_from_table(parquet_to_table(data))
        if not todo:
            break
    return pairs


@contextmanager
def _runner(prepared: Prepared, store_uri: str, job: str, form: LogFormat) -> Iterator[RunUnits]:
    """A function that runs units on the cluster, which is joined when it is first called."""
    compute = prepared.manifest.compute
    spec = WorkerSpec(
        store=store_uri,
        job=job,
        claim_seconds=compute.claim_seconds,
        model=prepared.model,
        settings=collection_settings(prepared.manifest),
        threads=compute.threads_per_actor,
        run=run_id(prepared.manifest, prepared.model),
        log_format=form,
    )
    with ExitStack() as joined:

        def run(
            units: Sequence[Work],
            known: Mapping[str, Work],
            on_result: OnResult,
            on_tick: OnTick,
            evaluations: Evaluations,
        ) -> None:
            joined.enter_context(connected(compute))
            metrics = JobMetrics()
            pool = WorkerPool(spec, compute)
            left = {unit.key for unit in units}

            def counted(result: Result) -> None:
                left.discard(result.work.key)
                metrics.unit(
                    kind=result.work.kind,
                    status=result.status,
                    attempts=result.attempts,
                    evaluations=evaluations(result.work),
                )
                metrics.now(units_left=len(left), actors=len(pool.slots))
                on_result(result)

            with Watchdog() as watchdog:

                def beat(tick: Tick) -> None:
                    watchdog.beat()
                    on_tick(tick)

                try:
                    run_units(
                        units,
                        pool,
                        known=known,
                        max_attempts=compute.max_attempts,
                        on_result=counted,
                        on_tick=beat,
                    )
                finally:
                    pool.close()
                    metrics.now(units_left=len(left), actors=0)

        yield run
