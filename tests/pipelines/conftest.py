"""A finished run of a tiny model in a local store, made without Ray."""

import os
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from conceptprune.prompts.pairs import prompt_pairs
from conceptprune.store import Commit, Store
from conceptprune.units.plan import Plan
from conceptprune.units.prompts_units import concepts_in
from conceptprune.units.unit import Unit
from conceptprune.units.worker import Worker
from pipelines.jobs.preparation import Prepared, prepare
from pipelines.records.ledger import ledger_rows, write_ledger
from pipelines.records.run_record import RunRecord
from pipelines.scheduling.loop import Result

HOSTILE_NAME = "../../Eve | `rm` [link](x)"
CONCEPTS = ("Ada Bell", "Cy Dow", HOSTILE_NAME)


@dataclass(frozen=True, kw_only=True)
class TinyStore:
    uri: str
    manifest: Path
    model: Path
    prepared: Prepared
    plan: Plan
    commits: dict[str, Commit]
    """Of every unit, prompts included, by key."""

    @property
    def store(self) -> Store:
        return Store(self.uri)


def write_manifest(path: Path, model: Path, **changes: object) -> Path:
    content = {
        "version": 1,
        "model": {"folder": str(model)},
        "fillers": {"style": ["cat", "car", "tree"]},
        "concepts": [{"name": name, "kind": "style"} for name in CONCEPTS],
        "collection": {
            "steps": 4,
            "tau": 3,
            "window": 2,
            "batch_size": 2,
            "shard_prompts": 2,
            "dtype": "float32",
            "device": "cpu",
        },
        "pruning": {"sparsity": 0.02},
        "outputs": {
            "deltas": True,
            "pipelines": True,
            "fuse": "union",
            "preview": {"seeds": [0], "steps": 2, "prompts_per_concept": 1},
        },
        **changes,
    }
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def copied(tiny_store: TinyStore, copy: Path, below: str = "") -> Store:
    """A copy of a finished run's store, or of one folder in it, made by hard links."""
    for path in Path(tiny_store.uri, below).rglob("*"):
        if path.is_file():
            target = copy / path.relative_to(tiny_store.uri)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, target)
    return Store(str(copy))


def whole_plan(prepared: Prepared) -> Plan:
    """The plan as a job has it: with the units that make its prompts."""
    units = prepared.prompts_units()
    pairs = {
        concept.name: prompt_pairs(concept, seed=unit.seed)
        for unit in units
        for concept in concepts_in(unit)
    }
    return prepared.plan(pairs, units)


def worker_of(prepared: Prepared, store: Store) -> Worker:
    return Worker(store, prepared.model)


def record_run(
    store: Store,
    prepared: Prepared,
    plan: Plan,
    results: Collection[Result] = (),
    *,
    started: float | None = None,
    with_ledger: bool = True,
) -> None:
    """Leave behind what a job does that had to do every unit and came as far as `results`."""
    RunRecord(
        run=plan.run,
        manifest=prepared.manifest.model_dump(mode="json", exclude={"model"}),
        model_label=prepared.model.source.label,
        model_identity=prepared.model.identity,
        pipeline=prepared.model.pipeline,
        denoiser_weights=prepared.denoiser_weights,
        started=time.time() if started is None else started,
    ).write(store)
    if with_ledger:
        rows = ledger_rows(
            plan,
            todo={unit.key for unit in plan.units()},
            results={result.unit.key: result for result in results},
            reused={},
        )
        write_ledger(store, plan.run, rows)


def done(unit: Unit, commit: Commit) -> Result:
    return Result(unit=unit, status="done", attempts=1, commit=commit)


REWORDING: dict[str, object] = {
    "method": "reword",
    "retain": [{"name": "Gil Hart", "kind": "style"}],
    "outputs": {
        "pipelines": True,
        "preview": {"seeds": [0], "steps": 2, "prompts_per_concept": 1},
    },
}
"""What a manifest says in place of `fuse`."""


@pytest.fixture(scope="session")
def tiny_store(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> TinyStore:
    return made_store(tmp_path_factory.mktemp("tiny_store"), tiny_folder)


@pytest.fixture(scope="session")
def reworded_store(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> TinyStore:
    """The same with `method: reword`."""
    return made_store(tmp_path_factory.mktemp("reworded_store"), tiny_folder, **REWORDING)


def made_store(folder: Path, model: Path, **changes: object) -> TinyStore:
    manifest = write_manifest(folder / "manifest.yaml", model, **changes)
    prepared = prepare(manifest)
    plan = whole_plan(prepared)
    uri = str(folder / "store")
    worker = worker_of(prepared, Store(uri))
    commits = {}
    results = []
    for unit in plan.units():
        commits[unit.key] = worker.run(unit)
        results.append(done(unit, commits[unit.key]))
    record_run(Store(uri), prepared, plan, results)
    return TinyStore(
        uri=uri,
        manifest=manifest,
        model=model,
        prepared=prepared,
        plan=plan,
        commits=commits,
    )
