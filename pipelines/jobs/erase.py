"""The erase job: prompts, collection, reduction, selection, outputs; one pass, safe to rerun."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from conceptprune.models.prompt import Prompt
from conceptprune.prompts.pairs import PromptPair
from conceptprune.prompts.table import Pairs
from conceptprune.store import LostUnitError, Store
from conceptprune.units.plan import Plan
from conceptprune.units.prompts_units import concepts_in
from conceptprune.units.reword_units import MomentsUnit, RewordUnit, ShiftUnit
from conceptprune.units.run_id import run_id
from conceptprune.units.stored_prompts import load_pairs
from conceptprune.units.unit import Unit
from conceptprune.units.units import PreviewUnit, WindowUnit

from ..console import exits
from ..console.logs import LogFormat, identified, job_console, log_format, one_line, say
from ..console.names import some
from ..records.combined import part_kind
from ..records.concepts import ConceptStates
from ..records.effects import concept_states
from ..records.journal import new_job
from ..records.run_record import RunRecord
from ..scheduling.graph import committed_in
from ..scheduling.loop import Result
from ..scheduling.metrics import StoreMetrics
from ..scheduling.workers import WorkerProcess, WorkerSpec
from .preparation import Prepared, prepare
from .run import Outcome, RunUnits, run_plan, tell_outcome, unit_runner

LOOKS_AT_PROMPTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """What a job had to do, and what it did."""

    plan: Plan
    outcome: Outcome
    seconds: float
    states: ConceptStates


def run_job(
    prepared: Prepared,
    store_uri: str,
    console: Console,
    form: LogFormat = "plain",
    *,
    command: str = "erase",
    verify: bool = False,
) -> JobResult:
    """Run a prepared manifest against a store, on the current Ray cluster or on a local one.

    If everything is in the store already, no cluster is started. With `verify`, every result is
    read, and computed again if it is damaged.

    Raises:
        StoreError: the store cannot be read or written.
    """
    started = time.time()
    job = new_job()
    store = Store(store_uri, StoreMetrics())
    store.check()
    spec = _spec(prepared, store, job, form)
    with unit_runner(spec, prepared.manifest.compute, store) as run:
        pairs, made = _prompts(prepared, store, run)
        plan, known, pairs = _plan(prepared, pairs, made)
        asked = prepared.manifest.model_dump(mode="json", exclude={"model"})
        RunRecord(
            run=plan.run,
            manifest=asked,
            model_label=prepared.model.source.label,
            model_identity=prepared.model.identity,
            language_model=prepared.model.language_model,
            pipeline=prepared.model.pipeline,
            denoiser_weights=prepared.denoiser_weights,
            started=started,
        ).write(store)
        rest = _Rest(prepared, plan, pairs)
        outcome = run_plan(
            plan,
            store,
            run,
            console,
            job,
            command=command,
            asked=asked,
            known=known,
            verify=verify,
            then=rest.planned,
        )
        plan = rest.plan
        states = concept_states(plan, outcome.rows, store, job, model=prepared.model.identity)
        states.write(store, plan.run)
    return JobResult(plan=plan, outcome=outcome, seconds=time.time() - started, states=states)


class _Rest:
    """If a concept fails, the combined checkpoint is made from the others."""

    def __init__(self, prepared: Prepared, plan: Plan, pairs: Pairs) -> None:
        self._prepared = prepared
        self._pairs = pairs
        self.plan = plan
        """The plan; in the end, with a combined checkpoint that can be made."""

    def planned(self, results: Mapping[str, Result]) -> Plan | None:
        """The plan with a combined checkpoint of the other concepts, if some have no mask."""
        combined = self.plan.combined
        made = combined and results.get(combined.key)
        if not combined or not made or made.status != "blocked":
            return None
        lacking = {
            name
            for kind, key in combined.needs
            if kind == part_kind(combined.kind) and key in results and results[key].error
            for name in self.plan.labels[key]
        }
        if not lacking or len(lacking) == len(self.plan.concepts):
            return None
        self.plan = self._prepared.plan_of_the_rest(self.plan, self._pairs, lacking)
        return self.plan


def _prompts(prepared: Prepared, store: Store, run: RunUnits) -> tuple[Pairs, dict[str, Result]]:
    """The prompts, made first if they are missing, and the results of making them, by key."""
    units = prepared.prompts_units()
    known: Mapping[str, Unit] = {unit.key: unit for unit in units}
    committed = committed_in(store)
    todo = [unit for unit in units if not committed(unit.kind, unit.key)]
    results: dict[str, Result] = {}

    def on_result(result: Result) -> None:
        results[result.unit.key] = result

    for look in range(LOOKS_AT_PROMPTS):
        if todo:
            run(todo, known, on_result, lambda _: None)
        pairs: dict[str, tuple[PromptPair, ...]] = {}
        todo = []
        for unit in units:
            if unit.key in results and results[unit.key].error:
                continue
            try:
                names = [concept.name for concept in concepts_in(unit)]
                pairs |= load_pairs(store, store.get(unit.kind, unit.key), names)
            except LostUnitError:
                if look == LOOKS_AT_PROMPTS - 1:
                    raise
                todo.append(unit)
        if not todo:
            break
    return pairs, results


def _plan(
    prepared: Prepared, pairs: Pairs, made: Mapping[str, Result]
) -> tuple[Plan, list[Result], Pairs]:
    """The plan, its known results (prompts that were `made`, or failed), and its pairs.

    A concept without prompts is planned with a placeholder, so that the ledger has a row for
    everything missing. Nothing is ever computed under the keys of these rows.
    """
    prompts = tuple(prepared.prompts_units())
    failed = {unit.key for unit in prompts if unit.key in made and made[unit.key].error}
    stand_ins = {
        concept.name: _stand_in(concept.name)
        for unit in prompts
        if unit.key in failed
        for concept in concepts_in(unit)
    }
    pairs = {**pairs, **stand_ins}
    plan = prepared.plan(pairs, prompts)
    texts = {pair.base.text for (pair,) in stand_ins.values()}
    results = dict(made)
    blocked = set(failed)
    for unit in plan.units():
        if texts.intersection(_texts(unit)) or any(key in blocked for _, key in unit.needs):
            blocked.add(unit.key)
            results[unit.key] = Result(
                unit=unit, status="blocked", attempts=0, error="needs prompts, which failed"
            )
    return plan, list(results.values()), pairs


def _texts(unit: Unit) -> Iterable[str]:
    """The prompts that a unit works on."""
    match unit:
        case WindowUnit() | PreviewUnit():
            return (prompt.text for prompt in unit.prompts)
        case ShiftUnit():
            return (text for pair in unit.pairs for text in pair)
        case MomentsUnit():
            return unit.texts
    return ()


def _stand_in(concept: str) -> tuple[PromptPair, ...]:
    prompt = Prompt(text=f"(prompts of {concept} could not be made)", seed=0)
    return (PromptPair(base=prompt, target=prompt),)


def _spec(prepared: Prepared, store: Store, job: str, form: LogFormat) -> WorkerSpec:
    run = run_id(prepared.manifest, prepared.model)
    return WorkerSpec(
        process=WorkerProcess.of(store, prepared.manifest.compute, job=job, run=run, form=form),
        model=prepared.model,
    )


def erase(
    manifest: Path,
    store: str,
    console: Console,
    asked_format: str | None = None,
    *,
    verify: bool = False,
) -> int:
    """Run the job and print its table; as log lines, if the log is JSON.

    With `verify`, results already in the store are read in full and checked.

    Returns:
        0 when every concept is done, 1 when some failed; bad input raises UserError.
    """
    form = log_format(asked_format)
    console = job_console(form, console)
    prepared = prepare(manifest)
    with identified(run=run_id(prepared.manifest, prepared.model)):
        result = run_job(prepared, store, console, form, verify=verify)
        _print_result(result, store, prepared.denoiser_weights, console)
        return exits.of_job(result.outcome.failed)


def _print_result(result: JobResult, store: str, denoiser_weights: int, console: Console) -> None:
    by_key = {row["key"]: row for row in result.outcome.rows}
    table = Table(title=None, box=None, pad_edge=False)
    for name in ("concept", "entries", "% of site", "% of model", "seconds", "artifact"):
        words = name in ("concept", "artifact")
        table.add_column(name, justify="left" if words else "right", no_wrap=not words)
    masks = [(plan.concept.name, plan.mask.key) for plan in result.plan.concepts]
    combined = result.plan.combined
    if combined:
        how = "reworded" if isinstance(combined, RewordUnit) else "fused"
        lacks = [
            each.concept.name
            for each in result.plan.concepts
            if each.concept.name not in combined.erased
        ]
        which = f"all but {some(lacks)}" if lacks else "all"
        masks.append((f"({which}, {how})", combined.key))
    seconds = _seconds_by_concept(result)
    for name, key in masks:
        row = by_key[key]
        # The row may be of an earlier ledger, which anybody may have written.
        if row["entries"] is None or not row["site_weights"]:
            table.add_row(Text(name), "-", "-", "-", "-", Text(f"{row['status']}"))
            continue
        table.add_row(
            Text(name),
            f"{row['entries']:,}",
            f"{100 * row['entries'] / row['site_weights']:.2f}",
            f"{100 * row['entries'] / denoiser_weights:.3f}",
            f"{seconds.get(name, row['seconds']):.1f}",
            Text(_artifact(row["objects"])),
        )
    console.print(table)
    for line in result.states.lines():
        say(console, one_line(f"concepts: {line}"))
    tell_outcome(console, f"run {result.plan.run}", result.outcome, result.seconds, store)


def _artifact(paths: Iterable[str]) -> str:
    kinds = ("mask", "delta")
    found = [(kind, path) for path in paths for kind in kinds if f"objects/{kind}/" in path]
    return ", ".join(f"{kind} {path.rsplit('/', 1)[-1][:12]}" for kind, path in found[:1])


def _seconds_by_concept(result: JobResult) -> dict[str, float]:
    """Worker seconds per concept; a shared unit is divided equally."""
    seconds: dict[str, float] = {}
    for row in result.outcome.rows:
        for name in row["concepts"]:
            share = (row["seconds"] or 0.0) / len(row["concepts"])
            seconds[name] = seconds.get(name, 0.0) + share
    return seconds
