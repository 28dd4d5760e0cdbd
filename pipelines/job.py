"""The erase job: prompts, collection, reduction, selection, outputs; one pass, safe to rerun."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from conceptprune.plan import Plan, collection_settings, prompts_units
from conceptprune.prompt_table import pairs_from_table
from conceptprune.prompts import PromptPair
from conceptprune.store import Store, parquet_to_table
from conceptprune.work import Work
from pipelines.cluster import connected
from pipelines.graph import committed_in, units_to_do
from pipelines.ledger import RunRecord, ledger_rows, reused_commits, write_ledger
from pipelines.preparation import Prepared
from pipelines.progress import JobProgress
from pipelines.schedule import Result, run_units
from pipelines.workers import WorkerPool, WorkerSpec

SECONDS_BETWEEN_LEDGERS = 10.0

RunUnits = Callable[[Sequence[Work], Callable[[Result], None]], None]


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


def run_job(prepared: Prepared, store_uri: str, console: Console) -> JobResult:
    """Run a prepared manifest against a store on the Ray cluster at hand, or on a local one.

    Where everything is in the store already, no cluster is asked for.

    Raises:
        PromptsFailedError: prompts could not be made.
        StoreError: the store cannot be read or written.
    """
    started = time.time()
    store = Store(store_uri)
    store.check()
    with _runner(prepared, store_uri) as run:
        plan = prepared.plan(_prompts(prepared, store, run))
        RunRecord(
            run=plan.run,
            manifest=prepared.manifest.model_dump(mode="json", exclude={"model"}),
            model_label=prepared.model.source.label,
            model_identity=prepared.model.identity,
            denoiser_weights=prepared.denoiser_weights,
            started=started,
        ).write(store)
        return _run_plan(plan, store, run, console, started)


def _run_plan(
    plan: Plan, store: Store, run: RunUnits, console: Console, started: float
) -> JobResult:
    units = units_to_do(plan, committed_in(store))
    todo = {unit.key for unit in units}
    reused = reused_commits(plan, store, todo)
    results: dict[str, Result] = {}
    last_ledger = time.monotonic()

    def ledger() -> list[dict[str, Any]]:
        rows = ledger_rows(plan, todo=todo, results=results, reused=reused)
        write_ledger(store, plan.run, rows)
        return rows

    def on_result(result: Result) -> None:
        nonlocal last_ledger
        results[result.work.key] = result
        progress.advance(result)
        if time.monotonic() - last_ledger > SECONDS_BETWEEN_LEDGERS:
            last_ledger = time.monotonic()
            ledger()

    ledger()
    try:
        if units:
            with JobProgress(console, plan, units) as progress:
                run(units, on_result)
    finally:
        # Also when the job is stopped (Ray turns a termination signal into SystemExit): what has
        # been done so far is on record.
        rows = ledger()
    return JobResult(
        plan=plan,
        seconds=time.time() - started,
        computed=sum(result.status == "done" for result in results.values()),
        reused=len(reused),
        rows=rows,
    )


def _prompts(prepared: Prepared, store: Store, run: RunUnits) -> dict[str, tuple[PromptPair, ...]]:
    committed = committed_in(store)
    units = prompts_units(prepared.manifest)
    errors: list[str] = []

    def on_result(result: Result) -> None:
        if result.error:
            errors.append(result.error)

    todo = [unit for unit in units if not committed(unit.kind, unit.key)]
    if todo:
        run(todo, on_result)
    if errors:
        raise PromptsFailedError(f"prompts could not be made: {errors[0]}")
    pairs: dict[str, tuple[PromptPair, ...]] = {}
    for unit in units:
        commit = store.get(unit.kind, unit.key)
        pairs |= pairs_from_table(parquet_to_table(store.load(commit, "prompts")))
    return pairs


@contextmanager
def _runner(prepared: Prepared, store_uri: str) -> Iterator[RunUnits]:
    """A function that runs units on the cluster, which is joined when it is first called."""
    compute = prepared.manifest.compute
    spec = WorkerSpec(
        store=store_uri,
        model=prepared.model,
        settings=collection_settings(prepared.manifest),
        threads=compute.threads_per_actor,
    )
    with ExitStack() as joined:

        def run(units: Sequence[Work], on_result: Callable[[Result], None]) -> None:
            joined.enter_context(connected(compute))
            pool = WorkerPool(spec, compute)
            try:
                run_units(units, pool, max_attempts=compute.max_attempts, on_result=on_result)
            finally:
                pool.close()

        yield run
