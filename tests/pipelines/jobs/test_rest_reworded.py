"""A concept whose sums fail does not hold up the rewording: that is of the others."""

from collections.abc import Callable
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from conceptprune.checkpoints.delta_reader import read_delta
from conceptprune.store import Store
from conceptprune.units.reword_units import ShiftUnit
from conceptprune.units.unit import Unit
from pipelines.commands.export_combined import export_combined
from pipelines.commands.status_json import status_document
from pipelines.commands.verify import audit, verify_export
from pipelines.jobs.erase import erase
from pipelines.records.combined import combined_row, inside, lacking
from pipelines.records.ledger import is_combined, read_ledger
from pipelines.report.data import read_report
from tests.pipelines.commands.test_status import status
from tests.pipelines.conftest import CONCEPTS, TinyStore, copied
from tests.support.units_here import ERROR, units_here

ADA, CY, LAST = CONCEPTS


@dataclass(frozen=True)
class Ran:
    """What a run said, and the store that it left."""

    store: Store
    code: int
    printed: str


def run_erase(reworded: TinyStore, store: Store, failing: Callable[[Unit], bool]) -> Ran:
    """`erase`, its units done in this process."""
    sink = StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.jobs.erase.unit_runner", units_here(failing))
        code = erase(reworded.manifest, store.uri, Console(file=sink, width=200))
    return Ran(store, code, sink.getvalue())


@pytest.fixture(scope="module")
def failed(reworded_store: TinyStore, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """After a run that lacked the sums of CY, and could not make them."""
    store = copied(reworded_store, tmp_path_factory.mktemp("failed") / "store")
    gone = {
        unit.key
        for unit in reworded_store.plan.units()
        if isinstance(unit, ShiftUnit) and unit.concept == CY
    }
    for unit in reworded_store.plan.units():
        if unit.key in gone or gone & {key for _, key in unit.needs}:
            gone.add(unit.key)
            store.remove([f"commits/{unit.kind}/{unit.key}.json"])
    return run_erase(reworded_store, store, lambda unit: isinstance(unit, ShiftUnit))


def test_the_others_are_reworded_and_everybody_is_told_whom_that_lacks(
    failed: Ran, reworded_store: TinyStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = failed.store
    assert failed.code == 1
    assert f"(all but {CY}, reworded)" in failed.printed
    rows = read_ledger(store, reworded_store.plan.run)
    combined = combined_row(rows)
    assert combined
    assert (combined["kind"], combined["status"]) == ("reword", "done")
    assert inside(combined, rows) == (ADA, LAST)
    assert lacking(combined, rows) == (CY,)
    header, _ = read_delta(store.load(store.get("reword", combined["key"]), "delta"))
    assert header
    assert header.concepts == (ADA, LAST)
    # With all that the manifest asks of a combined checkpoint.
    made = [row for row in rows if row["mask"] == combined["key"]]
    assert {row["kind"] for row in made} == {"checkpoint", "preview", "reword"}
    assert {row["status"] for row in made} == {"done"}, [row["error"] for row in made]
    # That of all three stays on record as what a rerun would make.
    (whole,) = (row for row in rows if is_combined(row) and row is not combined)
    assert whole["status"] == "blocked"
    (sums,) = (row for row in rows if row["status"] == "failed")
    assert (sums["kind"], sums["concepts"], sums["error"]) == ("shift", [CY], ERROR)

    text = status(store.uri)
    assert f"combined  a rewording, done; without {CY}, whose sums are not there" in text
    assert f"failed    shift {sums['key'][:12]} ({CY}) after" in text
    (run,) = status_document(store.uri)["runs"]
    assert run["combined"] == {"how": "reworded", "status": "done", "wrong": None, "lacking": [CY]}
    assert audit(store.uri).problems == ()
    report = read_report(store.uri, None)
    assert report.lacking == (CY,)
    assert report.combined
    assert report.combined.facts

    out = tmp_path / "out"
    export_combined(store.uri, out=out, form="delta", run=None, model=None)
    assert f'note: "{CY}" is not erased, as it has no sums ({ERROR})' in capsys.readouterr().err
    (found,) = verify_export(out, store.uri)
    assert (found.concepts, found.problems) == ((ADA, LAST), ())
    assert found.statement.predicate["lacking"] == [{"concept": CY, "reason": ERROR}]


def test_a_rerun_that_fails_again_makes_nothing_twice_and_one_that_succeeds_makes_the_whole(
    failed: Ran, reworded_store: TinyStore
) -> None:
    again = run_erase(reworded_store, failed.store, lambda unit: isinstance(unit, ShiftUnit))
    assert again.code == 1
    rows = read_ledger(failed.store, reworded_store.plan.run)
    assert {row["status"] for row in rows} == {"reused", "failed", "blocked"}
    last = run_erase(reworded_store, failed.store, lambda _: False)
    assert last.code == 0
    assert "(all, reworded)" in last.printed
    rows = read_ledger(failed.store, reworded_store.plan.run)
    (combined,) = (row for row in rows if is_combined(row))
    assert reworded_store.plan.combined
    assert combined["key"] == reworded_store.plan.combined.key
    assert lacking(combined, rows) == ()
    # The same bytes as in the store where nothing ever failed.
    objects = reworded_store.commits[combined["key"]].objects
    assert failed.store.get("reword", combined["key"]).objects == objects
