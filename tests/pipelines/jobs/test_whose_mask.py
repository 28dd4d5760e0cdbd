"""Whatever applies or fuses a concept's mask refuses one that is another concept's.

Whoever can write the store can let one concept's record name another's mask object. All digests are
right then, and only the mask file itself says whom it erases.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from conceptprune.errors import StoreError
from conceptprune.store import Store
from conceptprune.units.unit import Unit
from conceptprune.units.units import CheckpointUnit, FusedMaskUnit, MaskUnit, PreviewUnit
from conceptprune.units.worker import Worker
from pipelines.commands.export import export_concepts
from pipelines.commands.status_json import status_document
from pipelines.commands.verify import audit
from pipelines.records import whose
from pipelines.records.reuse import find_units
from pipelines.report.data import read_report
from tests.pipelines.commands.test_gc import paths
from tests.pipelines.commands.test_status import status
from tests.pipelines.conftest import CONCEPTS, TinyStore, copied, worker_of

ADA, CY, _ = CONCEPTS


def swap(store: Store, unit: Unit, other: Unit) -> None:
    """Let the record of `unit` name the objects of `other`."""
    commit = store.get(unit.kind, unit.key)
    theirs = store.get(other.kind, other.key)
    store.remove([f"commits/{unit.kind}/{unit.key}.json"])
    store.commit(replace(commit, objects=theirs.objects))


@pytest.fixture
def store(tiny_store: TinyStore, tmp_path: Path) -> Store:
    """A finished run in which the record of Ada's mask, and of the fused one, name Cy's mask."""
    store = copied(tiny_store, tmp_path / "store")
    ada, cy, _ = (concept.mask for concept in tiny_store.plan.concepts)
    assert tiny_store.plan.combined
    swap(store, ada, cy)
    swap(store, tiny_store.plan.combined, cy)
    return store


@pytest.fixture
def worker(tiny_store: TinyStore, store: Store) -> Worker:
    return worker_of(tiny_store.prepared, store)


@pytest.mark.parametrize("kind", [CheckpointUnit, PreviewUnit, FusedMaskUnit])
def test_a_worker_refuses_the_mask_of_another_concept(
    tiny_store: TinyStore, worker: Worker, kind: type[Unit]
) -> None:
    ada, cy, _ = tiny_store.plan.concepts
    fused = tiny_store.plan.combined
    assert fused
    wrong = {ada.mask.key, fused.key}
    units = [
        unit
        for unit in tiny_store.plan.units()
        if isinstance(unit, kind) and (unit.mask_key in wrong)
    ]
    assert units
    for unit in units:
        with pytest.raises(StoreError, match="is recorded as the mask of"):
            worker.make(unit)
    own = next((unit for unit in cy.checkpoints if kind is CheckpointUnit), None)
    if own:
        assert worker.make(own).objects


@pytest.mark.parametrize("how", ["union", "budget"])
def test_an_export_that_fuses_refuses_the_mask_of_another_concept(
    tiny_store: TinyStore, store: Store, tmp_path: Path, how: str
) -> None:
    with pytest.raises(StoreError, match=f'is recorded as the mask of "{ADA}"'):
        export_concepts(
            store.uri,
            [ADA, CY],
            out=tmp_path / "out",
            form="mask",
            fuse=how,
            fraction=0.01 if how == "budget" else None,
            run=None,
            model=tiny_store.model,
        )
    assert not (tmp_path / "out").exists()


def test_a_job_that_verifies_computes_both_again(tiny_store: TinyStore, store: Store) -> None:
    ada = tiny_store.plan.concepts[0].mask
    found = find_units(tiny_store.plan, store, verify=True)
    masks = {unit.key for unit in found.todo if isinstance(unit, MaskUnit | FusedMaskUnit)}
    assert tiny_store.plan.combined
    assert masks == {ada.key, tiny_store.plan.combined.key}


def test_an_audit_names_the_concept_whose_delta_is_anothers(
    tiny_store: TinyStore, tmp_path: Path
) -> None:
    store = copied(tiny_store, tmp_path / "deltas")
    ada, cy = (
        next(unit for unit in plan.checkpoints if unit.form == "delta")
        for plan in tiny_store.plan.concepts[:2]
    )
    swap(store, ada, cy)
    assert audit(store.uri).problems == (f"delta of {ADA}: its file (delta) is a delta of {CY}",)


@pytest.mark.parametrize("combined_alone", [True, False])
def test_no_report_shows_one_concepts_mask_under_anothers_name(
    store: Store, tiny_store: TinyStore, combined_alone: bool
) -> None:
    assert read_report(tiny_store.uri, None).combined
    whose = ADA
    if combined_alone:
        ada = tiny_store.plan.concepts[0].mask
        store.remove([f"commits/{ada.kind}/{ada.key}.json"])
        store.commit(tiny_store.commits[ada.key])
        whose = f'{ADA}", "{CY}'
    with pytest.raises(StoreError, match=f'recorded as the mask of "{whose}".*mask of {CY}'):
        read_report(store.uri, None)


def test_an_audit_of_the_store_names_the_concept_whose_mask_it_is_not(
    store: Store, tiny_store: TinyStore
) -> None:
    assert audit(tiny_store.uri).problems == ()
    before = paths(store)
    problem, of_all = audit(store.uri).problems
    assert paths(store) == before
    assert problem.startswith(f"mask of {ADA}: ")
    assert f"its file is a mask of {CY}" in problem
    assert of_all.startswith(f"fused mask of {ADA}, {CY}, ")
    assert f"its file is a mask of {CY}" in of_all


@pytest.mark.parametrize("at_first", [whose.HEADER_BYTES, 64])
def test_the_status_of_a_store_names_the_concept_whose_mask_it_is_not_and_moves_nothing(
    store: Store, tiny_store: TinyStore, monkeypatch: pytest.MonkeyPatch, at_first: int
) -> None:
    # However long the header of a mask of many concepts is.
    monkeypatch.setattr(whose, "HEADER_BYTES", at_first)
    assert "wrong" not in status(tiny_store.uri)
    before = paths(store)
    text = status(store.uri)
    assert f"wrong     mask of {ADA}: its file is a mask of {CY}" in text
    assert f"wrong     combined checkpoint: its file is a mask of {CY}" in text
    assert "concepts  2 of 3 done" in text
    assert "compute nothing; what is wrong, it computes again with --verify" in text
    (run,) = status_document(store.uri)["runs"]
    assert run["concepts"]["done"] == 2
    assert list(run["concepts"]["wrong"]) == [ADA]
    assert run["combined"]["wrong"].startswith(f"its file is a mask of {CY}: ")
    assert paths(store) == before


@pytest.mark.parametrize("data", [b"", b"x", b"\xff" * 40, b"\x02" + bytes(7) + b"{}"])
def test_status_and_audit_name_a_mask_that_is_no_mask_and_move_nothing(
    tiny_store: TinyStore, tmp_path: Path, data: bytes
) -> None:
    store = copied(tiny_store, tmp_path / "store")
    mask = tiny_store.plan.concepts[0].mask
    commit = store.get("mask", mask.key)
    ref = store.put(data, kind="mask", model="0" * 12, suffix="safetensors")
    store.remove([f"commits/mask/{mask.key}.json"])
    store.commit(replace(commit, objects={"mask": ref}))
    before = paths(store)
    assert f"wrong     mask of {ADA}: not a conceptprune mask" in status(store.uri)
    (problem,) = audit(store.uri).problems
    assert problem.startswith(f"mask of {ADA}: not a conceptprune mask")
    Path(store.uri, ref.path).chmod(0o644)
    Path(store.uri, ref.path).write_bytes(b"damage")
    (problem,) = audit(store.uri).problems
    assert problem.startswith(f"mask of {ADA}: {store.uri}: {ref.path} is damaged")
    assert paths(store) == before
