"""A store of an earlier version, whose ledger left out what a run refers to, is read as any."""

import re
import zipfile
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

import conceptprune
from conceptprune.store import Store
from pipelines.commands.export import export_concepts
from pipelines.commands.status import show_status
from pipelines.records.collected import Collected
from pipelines.records.evaluation import evaluation_records
from pipelines.records.ledger import open_ledger
from pipelines.records.run_record import RunRecord
from pipelines.records.runs import run_records
from pipelines.report import write_report
from pipelines.report.data import read_report
from tests.pipelines.commands.test_gc import collect, orphan, paths
from tests.pipelines.conftest import CONCEPTS, TinyStore, copied, worker_of
from tests.support.other_versions import write_ledger_2

STORE_2 = Path(__file__).parents[2] / "fixtures" / "store-ledger-2.zip"
"""Of the last version that wrote ledger/2: a run of two artists and an evaluation of one mask.

Random weights; the windows, which only the statistics needed, are left out of it."""
ADA, CY = "Ada Bell", "Cy Dow"


def status(store: Store) -> str:
    sink = StringIO()
    show_status(store.uri, Console(file=sink, width=80))
    return sink.getvalue()


@pytest.fixture
def earlier(tmp_path: Path) -> Store:
    """The store that an earlier version wrote, unpacked."""
    with zipfile.ZipFile(STORE_2) as packed:
        packed.extractall(tmp_path / "earlier")
    return Store(str(tmp_path / "earlier"))


def test_its_runs_are_listed(earlier: Store) -> None:
    shown = status(earlier)
    assert "concepts  2 of 2 done" in shown
    assert "suite     small" in shown
    # Its results are of the method's first version, of which none is used again.
    anew = re.findall(r"a rerun would compute (\d+) units, all anew: .* version \d of the", shown)
    assert sorted(map(int, anew)) == sorted(
        len(open_ledger(earlier, record.run).rows)
        for record in (*run_records(earlier), *evaluation_records(earlier))
    )
    assert "not shown" not in shown


def test_gc_keeps_all_of_it_and_takes_what_no_run_refers_to(earlier: Store) -> None:
    before = paths(earlier)
    assert any(path.startswith("commits/prompts/") for path in before)
    orphan(earlier)
    # The orphan's two, and the probe that earlier versions left behind.
    probe = {path for path in before if path.startswith("probe/")}
    assert "removed: 3 files" in collect(earlier, yes=True)
    assert set(paths(earlier)) == set(before) - probe


def test_its_report_shows_images_by_what_they_ask_for_and_where_masks_prune(
    earlier: Store, tmp_path: Path
) -> None:
    report = read_report(earlier.uri, None)
    assert [concept.name for concept in report.concepts] == [ADA, CY]
    assert report.combined
    assert report.combined.facts
    assert report.not_shown == ()
    for concept in report.concepts:
        assert concept.mask
        assert [strip.role for strip in concept.strips] == ["own", "photo", "retained"]
        assert concept.accuracy
        assert concept.where
        assert len(concept.where.timesteps) == 1
        assert any(sum(row.by_call) for row in concept.where.rows)
    write_report(earlier.uri, out=tmp_path / "site", run=None)
    assert "studio-judge" in (tmp_path / "site" / "evaluation.html").read_text()


def test_its_masks_are_exported(earlier: Store, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_concepts(
        earlier.uri, ["ada bell", CY], out=out, form="mask", fuse="union", run=None, model=None
    )
    mask = conceptprune.load_mask(next(out.glob("*.safetensors")))
    assert mask.concepts == (ADA, CY)
    # What the run's own evaluation measured is of one mask, and on that one's card.
    (evaluation,) = evaluation_records(earlier)
    export_concepts(
        earlier.uri, [ADA], out=tmp_path / "one", form="mask", fuse=None, run=None, model=None
    )
    (file,) = (tmp_path / "one").glob("*.safetensors")
    digests = {checkpoint["digest"] for checkpoint in evaluation.checkpoints}
    assert conceptprune.load_mask(file).digest in digests
    assert "studio-judge" in (tmp_path / "one" / "README.md").read_text()


def test_what_it_collected_is_told_from_its_objects(earlier: Store) -> None:
    (record,) = (RunRecord.read(earlier, run) for run in erased(earlier))
    found = Collected.of(earlier, record, open_ledger(earlier, record.run))
    assert set(found.pairs) == {ADA, CY, "Gil Hart"}
    sides = {name: found.sides(name) for name in found.pairs}
    # The artists have targets of their own, and the prompts they are compared with in common.
    assert len({target for target, _ in sides.values()}) == 3
    assert {base for _, base in sides.values()} == {sides[ADA][1]}
    assert all(earlier.find("statistics", key or "") for key in sides[CY])


def erased(store: Store) -> list[str]:
    return [run for run in store.runs() if store.read_run_file(run, "run.json")]


@pytest.fixture
def twins(tiny_store: TinyStore, tmp_path: Path) -> tuple[Store, Store]:
    """The same run as this version records it, and as an earlier one did."""
    now, then = (copied(tiny_store, tmp_path / name) for name in ("now", "then"))
    write_ledger_2(then, tiny_store.plan.run)
    return now, then


def test_a_report_says_the_same_from_either_ledger(twins: tuple[Store, Store]) -> None:
    now, then = (read_report(store.uri, None) for store in twins)
    # Only what the prompts took is not on record of an earlier run's concepts.
    assert now.cost.evaluations == then.cost.evaluations
    for mine, theirs in zip(now.concepts, then.concepts, strict=True):
        assert replace(mine, cost=theirs.cost) == theirs
    assert (now.combined, now.not_shown) == (then.combined, then.not_shown)


def test_a_budget_is_spent_alike_from_either_ledger(
    twins: tuple[Store, Store], tiny_store: TinyStore, tmp_path: Path
) -> None:
    masks = []
    for index, store in enumerate(twins):
        out = tmp_path / f"out{index}"
        export_concepts(
            store.uri,
            list(CONCEPTS[:2]),
            out=out,
            form="mask",
            fuse="budget",
            fraction=0.005,
            run=None,
            model=tiny_store.model,
        )
        (file,) = out.glob("*.safetensors")
        masks.append(file.read_bytes())
    assert masks[0] == masks[1]


def test_prompts_of_another_run_about_the_same_concepts_are_not_taken_for_its_own(
    twins: tuple[Store, Store], tiny_store: TinyStore
) -> None:
    _, then = twins
    other = tiny_store.prepared.manifest.model_copy(
        update={
            "concepts": tuple(
                concept.model_copy(update={"fillers": ("dog", "boat", "house")})
                for concept in tiny_store.prepared.manifest.concepts
            )
        }
    )
    prepared = replace(tiny_store.prepared, manifest=other)
    worker = worker_of(prepared, then)
    for unit in prepared.prompts_units():
        worker.run(unit)
    record = RunRecord.read(then, tiny_store.plan.run)
    found = Collected.of(then, record, open_ledger(then, record.run))
    assert found.pairs == {plan.concept.name: plan.pairs for plan in tiny_store.plan.concepts}
