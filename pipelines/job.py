"""The erase job: prompts, collection, reduction, selection, outputs; one pass, safe to rerun."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from rich.console import Console

from conceptprune.plan import Plan, collection_settings, concepts_in, run_id
from conceptprune.prompt_table import Pairs, pairs_from_table
from conceptprune.prompts import Prompt, PromptPair
from conceptprune.store import LostWorkError, Store, parquet_to_table
from conceptprune.work import PreviewWork, Unit, WindowWork
from pipelines.graph import committed_in
from pipelines.journal import new_job
from pipelines.ledger import RunRecord
from pipelines.logs import LogFormat
from pipelines.metrics import StoreMetrics
from pipelines.preparation import Prepared
from pipelines.run import Outcome, RunUnits, run_plan, unit_runner
from pipelines.schedule import Result
from pipelines.workers import WorkerProcess, WorkerSpec

LOOKS_AT_PROMPTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """What a job was to do, and did."""

    plan: Plan
    outcome: Outcome
    seconds: float


def run_job(
    prepared: Prepared,
    store_uri: str,
    console: Console,
    form: LogFormat = "plain",
    *,
    verify: bool = False,
) -> JobResult:
    """Run a prepared manifest against a store on the Ray cluster at hand, or on a local one.

    Where everything is in the store already, no cluster is asked for. With `verify`, every result
    is read, and made again where it is damaged.

    Raises:
        StoreError: the store cannot be read or written.
    """
    started = time.time()
    job = new_job()
    store = Store(store_uri, StoreMetrics())
    store.check()
    spec = _spec(prepared, store, job, form)
    with unit_runner(spec, prepared.manifest.compute) as run:
        pairs, failed = _prompts(prepared, store, run)
        plan, given_up = _plan(prepared, pairs, failed)
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
        outcome = run_plan(plan, store, run, console, job, given_up=given_up, verify=verify)
    return JobResult(plan=plan, outcome=outcome, seconds=time.time() - started)


def _prompts(prepared: Prepared, store: Store, run: RunUnits) -> tuple[Pairs, dict[str, Result]]:
    """The prompts that are there, made first where they were not; and what failed, by key."""
    units = prepared.prompts_units()
    known: Mapping[str, Unit] = {unit.key: unit for unit in units}
    committed = committed_in(store)
    todo = [unit for unit in units if not committed(unit.kind, unit.key)]
    failed: dict[str, Result] = {}

    def on_result(result: Result) -> None:
        if result.error:
            failed[result.work.key] = result

    for look in range(LOOKS_AT_PROMPTS):
        if todo:
            run(todo, known, on_result, lambda _: None, lambda _: 0)
        pairs: dict[str, tuple[PromptPair, ...]] = {}
        todo = []
        for unit in units:
            if unit.key in failed:
                continue
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
    return pairs, failed


def _plan(
    prepared: Prepared, pairs: Pairs, failed: Mapping[str, Result]
) -> tuple[Plan, list[Result]]:
    """The plan, and the results of the units that must be given up for want of prompts.

    A concept without prompts is planned with a stand-in for them, so that the ledger has a row for
    all that is missing; the keys of these rows are nobody's, and nothing is computed under them.
    """
    unmade = tuple(unit for unit in prepared.prompts_units() if unit.key in failed)
    stand_ins = {
        concept.name: _stand_in(concept.name) for unit in unmade for concept in concepts_in(unit)
    }
    plan = replace(prepared.plan({**pairs, **stand_ins}), unmade=unmade)
    texts = {pair.base.text for (pair,) in stand_ins.values()}
    results = {unit.key: failed[unit.key] for unit in unmade}
    for unit in plan.units():
        prompts = unit.prompts if isinstance(unit, WindowWork | PreviewWork) else ()
        without = any(prompt.text in texts for prompt in prompts)
        if without or any(key in results for _, key in unit.needs):
            results[unit.key] = Result(
                work=unit, status="blocked", attempts=0, error="needs prompts, which failed"
            )
    return plan, list(results.values())


def _stand_in(concept: str) -> tuple[PromptPair, ...]:
    prompt = Prompt(text=f"(prompts of {concept} could not be made)", seed=0)
    return (PromptPair(base=prompt, target=prompt),)


def _spec(prepared: Prepared, store: Store, job: str, form: LogFormat) -> WorkerSpec:
    run = run_id(prepared.manifest, prepared.model)
    return WorkerSpec(
        process=WorkerProcess.of(store, prepared.manifest.compute, job=job, run=run, form=form),
        model=prepared.model,
        settings=collection_settings(prepared.manifest),
    )
