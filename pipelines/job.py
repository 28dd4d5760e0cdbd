"""The erase job: prompts, collection, reduction, selection, outputs; one pass, safe to rerun."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import ray
from rich.console import Console

from conceptprune.manifest import Compute
from conceptprune.plan import Plan, collection_settings, prompts_units
from conceptprune.prompt_table import pairs_from_table
from conceptprune.prompts import PromptPair
from conceptprune.store import Store, parquet_to_table
from conceptprune.work import Work
from pipelines.graph import committed_in, units_to_do
from pipelines.ledger import RunRecord, ledger_rows, reused_commits, write_ledger
from pipelines.preparation import Prepared
from pipelines.progress import JobProgress
from pipelines.schedule import Result, run_units
from pipelines.workers import WorkerPool, WorkerSpec

SECONDS_BETWEEN_LEDGERS = 10.0


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

    Raises:
        PromptsFailedError: prompts could not be made.
        StoreError: the store cannot be read or written.
    """
    started = time.time()
    store = Store(store_uri)
    compute = prepared.manifest.compute
    with _ray(compute), _terminated_as_interrupt():
        pool = _pool(prepared, store_uri)
        try:
            plan = prepared.plan(_prompts(prepared, store, pool))
            return _run_plan(prepared, plan, store, pool, console, started)
        finally:
            pool.close()


def _run_plan(
    prepared: Prepared,
    plan: Plan,
    store: Store,
    pool: WorkerPool,
    console: Console,
    started: float,
) -> JobResult:
    RunRecord(
        run=plan.run,
        manifest=prepared.manifest.model_dump(mode="json", exclude={"model"}),
        model_label=prepared.model.source.label,
        model_identity=prepared.model.identity,
        denoiser_weights=prepared.denoiser_weights,
        started=started,
    ).write(store)
    units = units_to_do(plan, committed_in(store))
    todo = {unit.key for unit in units}
    reused = reused_commits(plan, store, todo)
    results: dict[str, Result] = {}
    last_ledger = 0.0

    def ledger() -> list[dict[str, Any]]:
        return ledger_rows(plan, todo=todo, results=results, reused=reused)

    def on_result(result: Result) -> None:
        nonlocal last_ledger
        results[result.work.key] = result
        progress.advance(result)
        if time.monotonic() - last_ledger > SECONDS_BETWEEN_LEDGERS:
            last_ledger = time.monotonic()
            write_ledger(store, plan.run, ledger())

    try:
        if units:
            with JobProgress(console, plan, units) as progress:
                run_units(
                    units,
                    pool,
                    max_attempts=prepared.manifest.compute.max_attempts,
                    on_result=on_result,
                )
    finally:
        # Also when the job is interrupted: what has been done so far is on record.
        rows = ledger()
        write_ledger(store, plan.run, rows)
    return JobResult(
        plan=plan,
        seconds=time.time() - started,
        computed=sum(result.status == "done" for result in results.values()),
        reused=len(reused),
        rows=rows,
    )


def _prompts(
    prepared: Prepared, store: Store, pool: WorkerPool
) -> dict[str, tuple[PromptPair, ...]]:
    committed = committed_in(store)
    units = prompts_units(prepared.manifest)
    errors: list[str] = []

    def on_result(result: Result) -> None:
        if result.error:
            errors.append(result.error)

    todo: list[Work] = [unit for unit in units if not committed(unit.kind, unit.key)]
    attempts = prepared.manifest.compute.max_attempts
    run_units(todo, pool, max_attempts=attempts, on_result=on_result)
    if errors:
        raise PromptsFailedError(f"prompts could not be made: {errors[0]}")
    pairs: dict[str, tuple[PromptPair, ...]] = {}
    for unit in units:
        ref = store.get(unit.kind, unit.key).objects["prompts"]
        pairs |= pairs_from_table(parquet_to_table(store.read(ref)))
    return pairs


def _pool(prepared: Prepared, store_uri: str) -> WorkerPool:
    compute = prepared.manifest.compute
    spec = WorkerSpec(
        store=store_uri,
        model=prepared.model,
        settings=collection_settings(prepared.manifest),
        threads=compute.threads_per_actor,
    )
    return WorkerPool(
        spec,
        max_actors=compute.actors,
        cpus_per_actor=compute.cpus_per_actor,
        gpus_per_actor=compute.gpus_per_actor,
        max_tasks=2 * max(1, int(ray.cluster_resources().get("CPU", 1))),
    )


@contextmanager
def _ray(compute: Compute) -> Iterator[None]:
    """The cluster this process belongs to or is told of; else a local one, for this job only."""
    if ray.is_initialized():
        yield
        return
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False)
    else:
        # Logical CPUs for every actor and for a task beside them, however few cores there are:
        # tasks are short, and without one of their own they would wait for ever.
        actor_cpus = ceil(compute.actors * compute.cpus_per_actor)
        cpus = max(os.cpu_count() or 1, actor_cpus + 1)
        ray.init(address="local", num_cpus=cpus, include_dashboard=False, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _terminated_as_interrupt() -> Iterator[None]:
    """Let a termination signal end the job as Ctrl-C does: the ledger is still written."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
