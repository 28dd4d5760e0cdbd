"""No unit takes another unit's results, of whatever kind: each object says whose it is.

Whoever can write the store can let one unit's record name another's objects. All digests are right
then, and without a look at what the objects say, one concept's weights would be pruned in another's
name.
"""

from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from conceptprune.edits.moments_file import moments_bytes, read_shift
from conceptprune.store import LostUnitError, parquet_to_table, table_to_parquet
from conceptprune.units.prompts_units import prompts_units
from conceptprune.units.reword_units import MomentsUnit, RewordUnit, ShiftUnit
from conceptprune.units.unit import Unit
from conceptprune.units.units import (
    MaskUnit,
    PreviewUnit,
    PromptsUnit,
    StatisticsUnit,
    WindowUnit,
)
from pipelines.jobs.erase import erase
from pipelines.records.ledger import LEDGER_FILE, read_ledger, write_ledger
from tests.pipelines.conftest import CONCEPTS, TinyStore, copied, worker_of
from tests.pipelines.jobs.test_whose_mask import swap
from tests.support.units_here import units_here


def pairs(units: Iterator[Unit], kind: type[Unit], user: type[Unit]) -> Iterator[tuple[Unit, ...]]:
    """Each unit of a kind that one of the kind `user` needs, another of its kind, and that user."""
    everyone = list(units)
    for one in everyone:
        users = [
            each
            for each in everyone
            if isinstance(each, user) and (one.kind, one.key) in each.needs
        ]
        others = [
            each
            for each in everyone
            if type(each) is kind and each.key != one.key and type(each) is type(one)
        ]
        if type(one) is kind and users and others:
            yield one, others[0], users[0]


@pytest.mark.parametrize(
    ("kind", "user", "stores"),
    [
        (WindowUnit, StatisticsUnit, "tiny_store"),
        (WindowUnit, WindowUnit, "tiny_store"),
        (StatisticsUnit, MaskUnit, "tiny_store"),
        (PreviewUnit, PreviewUnit, "tiny_store"),
        (ShiftUnit, RewordUnit, "reworded_store"),
        (MomentsUnit, RewordUnit, "reworded_store"),
    ],
)
def test_a_worker_refuses_the_results_of_another_unit_and_they_are_made_again(
    kind: type[Unit],
    user: type[Unit],
    stores: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    made: TinyStore = request.getfixturevalue(stores)
    found = list(pairs(made.plan.units(), kind, user))
    assert found
    for index, (one, other, needs) in enumerate(found[:3]):
        store = copied(made, tmp_path / str(index))
        swap(store, one, other)
        worker = worker_of(made.prepared, store)
        with pytest.raises(
            LostUnitError, match=r"says that it is of another unit|names no object in"
        ) as lost:
            worker.make(needs)
        assert (lost.value.kind, lost.value.key) == (one.kind, one.key)
        # It no longer counts as done, so a job computes it, and the same as before.
        assert store.find(one.kind, one.key) is None
        assert worker.run(one).objects == made.commits[one.key].objects
        assert worker.make(needs).objects == made.commits[needs.key].objects


@pytest.mark.parametrize("names", [("Ada Bell",), None])
def test_a_job_makes_the_prompts_again_that_are_another_manifests(
    tiny_store: TinyStore, tmp_path: Path, names: tuple[str, ...] | None
) -> None:
    """Of other concepts, or of the same concepts with other seeds."""
    store = copied(tiny_store, tmp_path / "store")
    (unit,) = prompts_units(tiny_store.prepared.manifest)
    assert isinstance(unit, PromptsUnit)
    concepts = tuple(each for each in unit.concepts if names is None or each.name in names)
    other = PromptsUnit(concepts=concepts, seed=unit.seed + (names is None))
    worker_of(tiny_store.prepared, store).run(other)
    swap(store, unit, other)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.jobs.erase.unit_runner", units_here())
        code = erase(tiny_store.manifest, store.uri, Console(file=StringIO()))
    assert code == 0
    assert store.get(unit.kind, unit.key).objects == tiny_store.commits[unit.key].objects
    damaged = Path(store.uri, "damaged", "commits", unit.kind)
    assert [path.stem for path in damaged.iterdir()] == [unit.key]


def test_results_of_a_version_whose_objects_did_not_say_are_still_used(
    reworded_store: TinyStore, tiny_store: TinyStore, tmp_path: Path
) -> None:
    for made, kind, role in (
        (tiny_store, WindowUnit, "partial"),
        (reworded_store, ShiftUnit, "moments"),
    ):
        store = copied(made, tmp_path / role)
        unit = next(each for each in made.plan.units() if type(each) is kind)
        user = next(each for each in made.plan.units() if (unit.kind, unit.key) in each.needs)
        commit = store.get(unit.kind, unit.key)
        data = store.load(commit, role)
        older = without_unit(data) if role == "partial" else unsigned(data)
        assert older != data
        ref = store.put(older, kind=role, model="0" * 12, suffix="x")
        store.remove([f"commits/{unit.kind}/{unit.key}.json"])
        store.commit(replace(commit, objects={**commit.objects, role: ref}))
        made_again = worker_of(made.prepared, store).make(user)
        assert made_again.objects == made.commits[user.key].objects


@pytest.mark.parametrize(
    "changes",
    [
        {"site_weights": 0},
        {"objects": ["objects/x"]},
        {"objects": ["objects/mask/a"] * 3},
        {"site_weights": None},
        {"entries": 0},
    ],
)
def test_a_job_that_reuses_what_an_odd_ledger_has_prints_its_table(
    tiny_store: TinyStore, tmp_path: Path, changes: dict[str, object]
) -> None:
    store = copied(tiny_store, tmp_path / "store")
    run = tiny_store.plan.run
    rows = read_ledger(store, run)
    Path(store.uri, "runs", f"run={run}", LEDGER_FILE).unlink()
    write_ledger(store, run, [{**row, **changes} if row["entries"] else row for row in rows])
    sink = StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.jobs.erase.unit_runner", units_here())
        assert erase(tiny_store.manifest, store.uri, Console(file=sink, width=200)) == 0
    assert CONCEPTS[0] in sink.getvalue()


def without_unit(data: bytes) -> bytes:
    table = parquet_to_table(data)
    metadata = {**table.schema.metadata}
    del metadata[b"conceptprune.unit"]
    return table_to_parquet(table.replace_schema_metadata(metadata))


def unsigned(data: bytes) -> bytes:
    shift, unit = read_shift(data)
    assert unit
    written = moments_bytes(shift, unit)
    assert written == data
    # As the earlier version wrote it.
    size = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + size].replace(f',\\"unit\\":\\"{unit}\\"'.encode(), b"")
    header += b" " * (size - len(header))
    return data[:8] + header + data[8 + size :]
