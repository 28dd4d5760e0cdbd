"""A concept that fails does not hold up the combined checkpoint: it is made of the others."""

import errno
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import conceptprune
from conceptprune.errors import StoreError
from conceptprune.store import Store, files
from conceptprune.units.plan import Plan
from conceptprune.units.results import read_mask
from conceptprune.units.unit import Unit
from conceptprune.units.units import MaskUnit
from pipelines.commands.export import export_concepts
from pipelines.jobs.erase import erase
from pipelines.records.combined import combined_row, lacking
from pipelines.records.concepts import ConceptState, ConceptStates
from pipelines.records.ledger import is_combined, read_ledger
from tests.pipelines.conftest import CONCEPTS, TinyStore, copied
from tests.support.units_here import ERROR, units_here

ADA, CY, LAST = CONCEPTS
Erase = Callable[..., tuple[int, str]]


@dataclass(frozen=True)
class Ran:
    """What a run said, and the store that it left."""

    store: Store
    code: int
    printed: str


@pytest.fixture(scope="module")
def incomplete(tiny_store: TinyStore, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store that lacks the mask of CY and all that is made of it."""
    store = copied(tiny_store, tmp_path_factory.mktemp("incomplete") / "store")
    gone = set(_mask_of(tiny_store.plan, CY))
    for unit in tiny_store.plan.units():
        if unit.key in gone or gone & {key for _, key in unit.needs}:
            gone.add(unit.key)
            store.remove([f"commits/{unit.kind}/{unit.key}.json"])
    return store


@pytest.fixture(scope="module")
def failed(
    tiny_store: TinyStore, incomplete: Store, tmp_path_factory: pytest.TempPathFactory
) -> Ran:
    """After a run in which the mask of CY failed."""
    left = replace(tiny_store, uri=incomplete.uri)
    store = copied(left, tmp_path_factory.mktemp("failed") / "store")
    return _erase(tiny_store, store, failing=MaskUnit)


@pytest.fixture
def store(tiny_store: TinyStore, failed: Ran, tmp_path: Path) -> Store:
    """A copy of what that run left."""
    return copied(replace(tiny_store, uri=failed.store.uri), tmp_path / "store")


@pytest.fixture
def run_erase(tiny_store: TinyStore, store: Store) -> Erase:
    """`erase` on it once more; the mask of CY fails again or not."""

    def run_erase(failing: type[Unit] | None = MaskUnit) -> tuple[int, str]:
        ran = _erase(tiny_store, store, failing=failing)
        return ran.code, ran.printed

    return run_erase


def _erase(tiny_store: TinyStore, store: Store, *, failing: type[Unit] | None) -> Ran:
    """`erase`, its units done in this process; those of the kind of `failing` fail for CY."""
    here = units_here(lambda unit: failing is not None and isinstance(unit, failing))
    sink = StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.jobs.erase.unit_runner", here)
        code = erase(tiny_store.manifest, store.uri, Console(file=sink, width=200))
    return Ran(store, code, sink.getvalue())


def _mask_of(plan: Plan, name: str) -> tuple[str]:
    (key,) = (each.mask.key for each in plan.concepts if each.concept.name == name)
    return (key,)


def test_the_combined_checkpoint_is_made_of_the_others_and_says_whom_it_lacks(
    failed: Ran, tiny_store: TinyStore
) -> None:
    store = failed.store
    assert failed.code == 1
    assert f"(all but {CY}, fused)" in failed.printed
    rows = read_ledger(store, tiny_store.plan.run)
    fused = combined_row(rows)
    assert fused is not None
    assert fused["status"] == "done"
    assert lacking(fused, rows) == (CY,)
    mask = read_mask(store, fused["key"])
    assert mask.concepts == (ADA, LAST)
    # With all that the manifest asks of a combined checkpoint: a delta, a pipeline, images.
    made = [row for row in rows if row["mask"] == fused["key"]]
    assert {row["status"] for row in made} == {"done"}, [row["error"] for row in made]
    kinds = [row["kind"] for row in made]
    others = [each for each in tiny_store.plan.concepts if each.concept.name != CY]
    images = {unit.key for each in others for unit in each.previews_before}
    assert Counter(kinds) == {"checkpoint": 2, "fused-mask": 1, "preview": len(images)}
    # That of all three stays on record as what a rerun would make.
    (whole,) = (row for row in rows if is_combined(row) and row is not fused)
    assert whole["status"] == "blocked"


def test_a_rerun_that_fails_again_makes_nothing_twice(
    run_erase: Erase, store: Store, tiny_store: TinyStore
) -> None:
    first = read_ledger(store, tiny_store.plan.run)
    code, _ = run_erase()
    assert code == 1
    second = read_ledger(store, tiny_store.plan.run)
    assert [row["key"] for row in second] == [row["key"] for row in first]
    assert {row["status"] for row in second} == {"reused", "failed", "blocked"}


def test_a_rerun_that_succeeds_makes_the_whole_one(
    run_erase: Erase, store: Store, tiny_store: TinyStore
) -> None:
    code, printed = run_erase(failing=None)
    assert code == 0
    assert "(all, fused)" in printed
    rows = read_ledger(store, tiny_store.plan.run)
    (fused,) = (row for row in rows if is_combined(row))
    assert fused["key"] == tiny_store.plan.combined.key  # type: ignore[union-attr]
    assert lacking(fused, rows) == ()


def test_export_all_writes_every_mask_there_is_and_names_the_others(
    store: Store, tiny_store: TinyStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"form": "mask", "run": None, "model": tiny_store.model}
    export_concepts(
        store.uri,
        [],
        every=True,
        out=tmp_path / "one",
        fuse="union",
        **options,  # type: ignore[arg-type]
    )
    (path,) = (tmp_path / "one").glob("*.safetensors")
    assert conceptprune.load_mask(path).concepts == (ADA, LAST)
    assert f'note: "{CY}" is not erased, as it has no mask ({ERROR})' in capsys.readouterr().err
    export_concepts(store.uri, [], every=True, out=tmp_path / "each", fuse=None, **options)  # type: ignore[arg-type]
    assert len(list((tmp_path / "each").iterdir())) == 2


def test_when_a_concept_was_first_erased_stays_on_record_over_reruns(
    run_erase: Erase, failed: Ran, store: Store, tiny_store: TinyStore
) -> None:
    # No scorer is asked for: that masks are there is all that can be said.
    assert "concepts: 2 of 3 have a mask; effect checked for 0, not for 2" in failed.printed
    first = _states(store, tiny_store)
    assert not first[CY].has_mask
    assert first[CY].first is None
    run_erase(failing=None)
    second = _states(store, tiny_store)
    assert second[ADA].first == second[ADA].last == first[ADA].first
    assert second[CY].first is not None
    # The mask is lost and made again: the first time stays, the last is another.
    key = tiny_store.plan.concepts[1].mask.key
    store.remove([f"commits/mask/{key}.json"])
    run_erase(failing=None)
    third = _states(store, tiny_store)
    assert third[CY].first == second[CY].first
    assert third[CY].last is not None
    assert third[CY].last.at > third[CY].first.at  # type: ignore[union-attr]
    assert third[ADA] == second[ADA]


def _states(store: Store, tiny_store: TinyStore) -> dict[str, ConceptState]:
    found = ConceptStates.read(store, tiny_store.plan.run)
    assert found is not None
    return {each.name: each for each in found.states}


def test_a_store_that_turns_read_only_in_mid_run_is_one_error_and_a_rerun_loses_nothing(
    incomplete: Store, tiny_store: TinyStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = copied(replace(tiny_store, uri=incomplete.uri), tmp_path / "store")
    real, left = files._written_beside, 15

    def turning_read_only(*arguments: Any) -> AbstractContextManager[Path]:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.EROFS, "Read-only file system")
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(files, "_written_beside", turning_read_only)
        with pytest.raises(StoreError, match=r"cannot write .*: Read-only file system"):
            _erase(tiny_store, store, failing=None)
    before = store.committed("mask")
    assert _erase(tiny_store, store, failing=None).code == 0
    masks = {each.mask.key for each in tiny_store.plan.concepts}
    assert before <= store.committed("mask")
    assert masks <= store.committed("mask")
    for key in masks:
        assert store.get("mask", key).objects == tiny_store.commits[key].objects
