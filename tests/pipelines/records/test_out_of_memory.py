"""Memory that runs out in a stage: the halved batch is on record, in its commit and the ledger."""

from pathlib import Path

from conceptprune.store import Store
from conceptprune.units.units import WindowUnit
from pipelines.jobs.preparation import plan_here, prepare
from pipelines.records.ledger import ledger_rows, read_ledger, reused_units, write_ledger
from pipelines.scheduling.graph import committed_in
from tests.conceptprune.units.test_batch_memory import need_memory
from tests.pipelines.conftest import done, worker_of, write_manifest


def test_a_halved_batch_is_told_by_commit_and_ledger(tiny_folder: Path, tmp_path: Path) -> None:
    prepared = prepare(write_manifest(tmp_path / "m.yaml", tiny_folder, outputs={}))
    plan = plan_here(prepared)
    assert prepared.manifest.collection.batch_size == 2
    store = Store(str(tmp_path / "store"))
    worker = worker_of(prepared, store)
    need_memory(worker.denoiser.pipe, prompts_that_fit=1)
    unit = next(window for window in plan.of(WindowUnit).values() if len(window.prompts) == 2)
    commit = worker.run(unit)
    assert store.get(unit.kind, unit.key).at_once == commit.at_once == 1

    todo = {each.key for each in plan.units()}
    results = {unit.key: done(unit, commit)}
    write_ledger(store, plan.run, ledger_rows(plan, todo=todo, results=results, reused={}))
    rows = {row["key"]: row for row in read_ledger(store, plan.run)}
    assert rows[unit.key]["at_once"] == 1
    later = reused_units(plan, store, todo - {unit.key}, committed_in(store))
    assert later[unit.key]["at_once"] == 1
