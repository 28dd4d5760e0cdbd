"""Whatever applies a rewording refuses one of other concepts, and an audit names it.

As with masks: whoever can write the store can let a record name another object, and only the file
itself says whom it erases.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from conceptprune.checkpoints.delta_reader import read_delta
from conceptprune.checkpoints.files import encode_delta
from conceptprune.errors import StoreError
from conceptprune.store import Store
from conceptprune.units.reword_units import MomentsUnit, RewordUnit, ShiftUnit
from conceptprune.units.unit import Unit
from conceptprune.units.units import CheckpointUnit, PreviewUnit
from pipelines.commands.status_json import status_document
from pipelines.commands.verify import audit
from pipelines.records.reuse import find_units
from pipelines.report.data import read_report
from tests.pipelines.commands.test_gc import collect, orphan, paths
from tests.pipelines.commands.test_status import status
from tests.pipelines.conftest import CONCEPTS, TinyStore, copied, worker_of

ADA, CY, LAST = CONCEPTS


def name_another(store: Store, unit: Unit, role: str, change: Callable[[bytes], bytes]) -> None:
    """Let the record of `unit` name its object, changed."""
    commit = store.get(unit.kind, unit.key)
    data = change(store.load(commit, role))
    ref = store.put(data, kind=role, model="0" * 12, suffix="safetensors")
    store.remove([f"commits/{unit.kind}/{unit.key}.json"])
    store.commit(replace(commit, objects={role: ref}))


def of_cy(data: bytes) -> bytes:
    """The same delta, whose file says that it is Cy's."""
    header, tensors = read_delta(data)
    assert header
    return encode_delta(
        tensors, component=header.component, concepts=[CY], mask=None, provenance=header.provenance
    )


@pytest.fixture
def store(reworded_store: TinyStore, tmp_path: Path) -> Store:
    return copied(reworded_store, tmp_path / "store")


@pytest.fixture
def edit(reworded_store: TinyStore) -> RewordUnit:
    assert isinstance(reworded_store.plan.combined, RewordUnit)
    return reworded_store.plan.combined


def test_one_of_other_concepts_is_refused_named_and_made_again(
    reworded_store: TinyStore, store: Store, edit: RewordUnit
) -> None:
    assert audit(reworded_store.uri).problems == ()
    name_another(store, edit, "delta", of_cy)
    worker = worker_of(reworded_store.prepared, store)
    units = [unit for unit in reworded_store.plan.units() if unit.mask_key == edit.key]
    assert {type(unit) for unit in units} == {RewordUnit, CheckpointUnit, PreviewUnit}
    for unit in units:
        if unit != edit:
            with pytest.raises(StoreError, match=f'as the rewording of "{ADA}".*rewording of {CY}'):
                worker.make(unit)
    before = paths(store)
    (problem,) = audit(store.uri).problems
    assert problem.startswith(f"rewording of {ADA}, {CY}, {LAST}: ")
    assert f"its file is a rewording of {CY}: somebody changed" in problem
    with pytest.raises(StoreError, match=f'as the rewording of "{ADA}".*rewording of {CY}'):
        read_report(store.uri, None)
    text = status(store.uri)
    assert f"wrong     combined checkpoint: its file is a rewording of {CY}: somebody" in text
    assert "compute nothing; what is wrong, it computes again with --verify" in text
    assert f"rewording of {CY}" in status_document(store.uri)["runs"][0]["combined"]["wrong"]
    assert paths(store) == before
    assert find_units(reworded_store.plan, store).todo == []
    # Of what it needs, everything is there.
    assert find_units(reworded_store.plan, store, verify=True).todo == [edit]
    worker.run(edit)
    assert audit(store.uri).problems == ()


@pytest.mark.parametrize("data", [b"", b"x" * 99])
def test_what_is_no_delta_is_named_and_made_again(
    reworded_store: TinyStore, store: Store, edit: RewordUnit, data: bytes
) -> None:
    name_another(store, edit, "delta", lambda _: data)
    (problem,) = audit(store.uri).problems
    assert problem.startswith(f"rewording of {ADA}, {CY}, {LAST}: not a safetensors file")
    assert "wrong     combined checkpoint: not a safetensors file" in status(store.uri)
    assert find_units(reworded_store.plan, store, verify=True).todo == [edit]


def test_a_damaged_one_is_named_and_moved_by_no_audit(
    reworded_store: TinyStore, store: Store, edit: RewordUnit
) -> None:
    ref = store.get(edit.kind, edit.key).objects["delta"]
    place = Path(store.uri, ref.path)
    place.unlink()
    place.write_bytes(b"damage")
    before = paths(store)
    (problem,) = audit(store.uri).problems
    assert f"{ref.path} is damaged" in problem
    assert paths(store) == before
    assert find_units(reworded_store.plan, store, verify=True).todo == [edit]


@pytest.mark.parametrize("kind", [ShiftUnit, MomentsUnit])
def test_sums_that_are_none_are_made_again_once_somebody_needs_them(
    reworded_store: TinyStore, store: Store, edit: RewordUnit, kind: type[Unit]
) -> None:
    sums = next(unit for unit in reworded_store.plan.units() if isinstance(unit, kind))
    name_another(store, sums, "moments", lambda _: b"no sums")
    found = find_units(reworded_store.plan, store, verify=True)
    assert found.todo == []
    assert sums.key not in found.reused
    assert store.find(sums.kind, sums.key) is None
    store.remove([f"commits/{edit.kind}/{edit.key}.json"])
    assert [unit.key for unit in find_units(reworded_store.plan, store).todo] == [
        sums.key,
        edit.key,
    ]


def test_status_says_that_it_is_a_rewording(reworded_store: TinyStore) -> None:
    text = status(reworded_store.uri)
    assert "combined  a rewording, done\n" in text
    assert "wrong" not in text
    (run,) = status_document(reworded_store.uri)["runs"]
    assert run["combined"] == {"how": "reworded", "status": "done", "wrong": None, "lacking": []}


def test_gc_keeps_the_rewording_and_all_that_it_was_made_of(store: Store) -> None:
    orphan(store)
    before = paths(store)
    assert "removed: 2 files" in collect(store, yes=True)
    left = paths(store)
    assert {path.split("/")[1] for path in before - left} == {"mask"}
