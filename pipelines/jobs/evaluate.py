"""The evaluation job: generate a suite's images with each checkpoint and score them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from conceptprune.attacks.worker import ATTEMPTS, Attacker
from conceptprune.errors import UserError
from conceptprune.evaluation.checkpoint import (
    Checkpoint,
    ImageModel,
    Resolved,
    images_identity,
    parse_of,
    resolve,
)
from conceptprune.evaluation.items import GROUPS
from conceptprune.evaluation.plan import EvaluationPlan, build_plan
from conceptprune.evaluation.scorers.base import Facts
from conceptprune.evaluation.suite import Suite, load_suite
from conceptprune.evaluation.summary import OBJECT, summary_rows
from conceptprune.manifest.model import BuiltinModel
from conceptprune.manifest.model_settings import ModelSettings
from conceptprune.masks.mask import PruningMask
from conceptprune.models.components import read_index
from conceptprune.models.families import check_model, family_named, identity
from conceptprune.models.schedulers import check_repeatable
from conceptprune.store import Commit, ObjectRef, Store, load_table
from conceptprune.units.find import find_commit
from conceptprune.units.results import read_mask
from conceptprune.units.unit import Unit
from conceptprune.units.unit_plan import UnitPlan

from ..console import exits
from ..console.evaluation import show_summary
from ..console.logs import LogFormat, identified, job_console, log_format, say
from ..records.evaluation import EvaluationRecord
from ..records.journal import new_job
from ..records.run_files import told_if_strange
from ..records.runs import mask_keys, run_records
from ..scheduling.metrics import StoreMetrics
from ..scheduling.workers import UnitRunner, WorkerProcess
from .run import Outcome, run_plan, tell_outcome, unit_runner


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedEvaluation:
    """A checked suite, its model, its scorers, and the checkpoints that were found."""

    suite: Suite
    base: ImageModel
    facts: tuple[Facts, ...]
    checkpoints: tuple[Resolved, ...]
    own: bool = False
    """See `build_plan`."""

    def plan(self, store: Store) -> EvaluationPlan:
        """The plan of the evaluation; writes masks and deltas to the store."""
        return build_plan(self.suite, self.base, self.placed(store), self.facts, own=self.own)

    def placed(self, store: Store) -> list[Checkpoint]:
        """The checkpoints, with their masks and deltas written to the store."""
        model = self.base.model.identity

        def put(data: bytes, kind: str) -> ObjectRef:
            return store.put(data, kind=kind, model=model, suffix="safetensors")

        return [checkpoint.placed(self.base, put) for checkpoint in self.checkpoints]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatorSpec:
    """What a worker process of an evaluation, or of attacks, is made from."""

    process: WorkerProcess
    base: ImageModel

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.process.run

    def build(self) -> UnitRunner:
        """Build a worker in this process."""
        claims = self.process.begin()
        return Attacker(claims.store, self.base, claims)


def evaluate(
    suite: Path,
    store: str,
    of: Sequence[str],
    console: Console,
    asked_format: str | None = None,
    tell: Callable[[dict[str, Any]], None] | None = None,
) -> int:
    """Run the evaluation and print its summary; `tell` also gets it as a document.

    Returns:
        0 if every number was computed, 1 if some unit failed; bad input raises UserError.
    """
    form = log_format(asked_format)
    console = job_console(form, console)
    prepared = prepare(suite, of, store)
    tell_unpinned(console, prepared.suite)
    opened = Store(store, StoreMetrics())
    opened.check()
    plan = prepared.plan(opened)
    with identified(run=plan.run):
        started = time.time()
        outcome = run_evaluation(prepared, plan, opened, console, form)
        labels = [entry.checkpoint.label for entry in plan.evaluation.entries]
        tell_summary(
            console, opened, f"evaluation {plan.run}", plan.evaluation, labels, outcome, started
        )
    if tell is not None:
        tell(_document(opened, plan, labels, outcome))
    return exits.of_job(outcome.failed)


def _document(
    store: Store, plan: EvaluationPlan, labels: Sequence[str], outcome: Outcome
) -> dict[str, Any]:
    """The evaluation with one row per number, for programs."""
    commit = find_commit(store, plan.evaluation.kind, plan.evaluation.key)
    return {
        "format": "conceptprune.evaluate/1",
        "run": plan.run,
        "checkpoints": list(labels),
        **outcome.as_json(),
        "numbers": [] if commit is None or outcome.failed else _numbers(store, commit),
    }


def _numbers(store: Store, commit: Commit) -> list[dict[str, Any]]:
    with told_if_strange(store, commit):
        return summary_rows(load_table(store, commit, OBJECT))


def tell_summary(
    console: Console,
    store: Store,
    title: str,
    summary: Unit,
    labels: Sequence[str],
    outcome: Outcome,
    started: float,
) -> None:
    """Print a job's summary, and the outcome of its units."""
    commit = find_commit(store, summary.kind, summary.key)
    if commit is not None and not outcome.failed:
        show_summary(_numbers(store, commit), labels, console)
        for name, ref in commit.objects.items():
            if name in (OBJECT, ATTEMPTS):
                say(console, f"{name}: {ref.path}")
    tell_outcome(console, title, outcome, time.time() - started, store.uri)


def prepare(suite_path: Path, of: Sequence[str], store: str) -> PreparedEvaluation:
    """Check a suite, its scorers and every checkpoint, before anything is written.

    Raises:
        UserError: something is wrong or missing.
    """
    asked = [parse_of(text) for text in of]
    if not asked:
        raise UserError("--of: name at least one checkpoint, such as --of base")
    suite = load_suite(suite_path)
    base = base_model(suite)
    facts = tuple(scorer.check() for scorer in suite.scorers)

    def named_mask(name: str) -> PruningMask:
        return _named_mask(store, name)

    checkpoints = tuple(resolve(one, base.model, named_mask) for one in asked)
    labels = [checkpoint.label for checkpoint in checkpoints]
    for label in labels:
        if labels.count(label) > 1:
            raise UserError(f"--of: two checkpoints are called {label}; give LABEL=KIND:VALUE")
    return PreparedEvaluation(suite=suite, base=base, facts=facts, checkpoints=checkpoints)


def tell_unpinned(console: Console, suite: Suite) -> None:
    """Say what would make sure that files of prompts stay the ones they are."""
    for group in GROUPS:
        for source in getattr(suite.groups, group):
            if source.unpinned:
                path, digest = source.unpinned
                say(
                    console,
                    f"{path}: the suite has no digest of it; this file's is\n  sha256: {digest}",
                )


def base_model(suite: Suite) -> ImageModel:
    """The suite's model, found on this machine.

    Raises:
        UserError: it does not exist, or its scheduler does not fit.
    """
    generation = suite.generation
    folder = suite.model.local_folder()
    if not isinstance(suite.model, BuiltinModel):
        check_model(folder)
        check_repeatable(folder, generation.scheduler, generation.steps)
    pipeline = read_index(folder)["_class_name"]
    family_named(pipeline).check_scheduler(generation.scheduler)
    model = ModelSettings(
        source=suite.model,
        identity=identity(folder),
        pipeline=pipeline,
        dtype=suite.dtype,
        device=generation.device,
        scheduler=generation.scheduler,
        resolution=generation.resolution,
    )
    return ImageModel(model=model, identity=images_identity(folder))


def run_evaluation(
    prepared: PreparedEvaluation,
    plan: EvaluationPlan,
    store: Store,
    console: Console,
    form: LogFormat = "plain",
    command: str = "evaluate",
) -> Outcome:
    """Run what the store lacks of an evaluation, on the current cluster or on a local one."""
    checkpoints = [entry.checkpoint for entry in plan.evaluation.entries]
    key = plan.evaluation.key
    return run_on_suite(prepared, plan, key, checkpoints, store, console, form, command)


def run_on_suite(
    prepared: PreparedEvaluation,
    plan: UnitPlan,
    summary: str,
    checkpoints: Sequence[Checkpoint],
    store: Store,
    console: Console,
    form: LogFormat,
    command: str = "evaluate",
) -> Outcome:
    """Run a plan that ends in a summary with the key `summary`, and record it."""
    job = new_job()
    compute = prepared.suite.compute
    suite = prepared.suite.model_dump(mode="json", exclude={"model"})
    EvaluationRecord.of(plan.run, checkpoints, summary, suite).write(store)
    process = WorkerProcess.of(store, compute, job=job, run=plan.run, form=form)
    spec = EvaluatorSpec(process=process, base=prepared.base)
    with unit_runner(spec, compute, store) as run:
        return run_plan(
            plan, store, run, console, job, command=command, asked=suite, parts="checkpoints"
        )


def _named_mask(store: str, name: str) -> PruningMask:
    """The mask of a concept in the store's newest run of `erase`."""
    opened = Store(store)
    try:
        record = run_records(opened)[0]
        ((concept, key),) = mask_keys(opened, record, [name]).items()
    except UserError as error:
        raise UserError(f"--of mask:{name}: no such file, and {error}") from error
    return read_mask(opened, key, of=concept)
