"""`gc` removes what no run refers to, and nothing that one may still need."""

import os
import time
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from conceptprune.errors import StoreError, UserError
from conceptprune.evaluation.checkpoint import Checkpoint, Edit, ImageModel
from conceptprune.store import Commit, Store
from conceptprune.store.store import RENEWED_AFTER
from pipelines.cli import main
from pipelines.commands.gc import LEAST_GRACE_HOURS, collect_garbage
from pipelines.records.evaluation import EvaluationRecord
from pipelines.records.ledger import reused_units
from pipelines.scheduling.graph import committed_in, units_to_do
from tests.pipelines.conftest import TinyStore, copied, done, record_run, worker_of

DAY = 86_400.0
PARTS = ("commits", "objects", "damaged", "claims", "runs")


def collect(store: Store, *, days_later: float = 2, **options: object) -> str:
    sink = StringIO()
    now = time.time() + days_later * DAY
    collect_garbage(store.uri, Console(file=sink, width=200), now=now, **options)  # type: ignore[arg-type]
    return sink.getvalue()


def paths(store: Store) -> set[str]:
    return {entry.path for part in PARTS for entry in store.entries(part)}


def orphan(store: Store, key: str = "orphan", data: bytes = b"orphan") -> Commit:
    """A committed unit that no run refers to."""
    ref = store.put(data, kind="mask", model="m" * 64, suffix="safetensors")
    commit = Commit(kind="mask", key=key, objects={"mask": ref}, provenance={})
    store.commit(commit)
    return commit


def paths_of(commit: Commit) -> set[str]:
    return {f"commits/{commit.kind}/{commit.key}.json"} | {
        ref.path for ref in commit.objects.values()
    }


def record_of(store: Store, run: str) -> bytes:
    data = store.read_run_file(run, "run.json")
    assert data
    return data


def damage_ledger(store: Store, run: str) -> None:
    """Flip a bit of a run's ledger, in the pages of its table."""
    path = Path(store.uri) / "runs" / f"run={run}" / "ledger.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 4] ^= 1
    path.unlink()  # It shares its bytes with the original by a hard link.
    path.write_bytes(data)


@pytest.fixture
def store(tiny_store: TinyStore, tmp_path: Path) -> Store:
    return copied(tiny_store, tmp_path / "store")


def test_a_store_of_finished_runs_holds_no_garbage(store: Store, tiny_store: TinyStore) -> None:
    before = paths(store)
    shown = collect(store, yes=True)
    assert paths(store) == before
    assert "removed: 0 files, 0 bytes" in shown
    assert not units_to_do(tiny_store.plan, committed_in(store))


def test_what_no_run_refers_to_is_listed_and_goes_only_with_yes(store: Store) -> None:
    before = paths(store)
    garbage = paths_of(orphan(store))
    uncommitted = store.put(b"of a worker that was killed", kind="mask", model="m", suffix="x")
    garbage.add(uncommitted.path)
    shown = collect(store)
    assert paths(store) == before | garbage
    assert {line.split("  ")[0] for line in shown.splitlines() if "/" in line} == garbage
    size = sum(entry.size for part in PARTS for entry in store.entries(part)) - sum(
        (Path(store.uri) / path).stat().st_size for path in before
    )
    assert f"could be removed: 3 files, {size} bytes; kept" in shown
    assert "nothing was changed: --yes removes what is listed" in shown
    assert "removed: 3 files" in collect(store, yes=True)
    assert paths(store) == before


def test_what_is_younger_than_the_grace_period_stays(store: Store) -> None:
    young = paths_of(orphan(store))
    collect(store, yes=True, days_later=0.9)
    assert young <= paths(store)
    collect(store, yes=True, days_later=0.9, grace_hours=20)
    assert not young & paths(store)


def test_an_old_object_that_a_young_record_names_stays(store: Store) -> None:
    commit = orphan(store)
    (path,) = (ref.path for ref in commit.objects.values())
    old = time.time() - 10 * DAY
    os.utime(Path(store.uri) / path, (old, old))
    collect(store, yes=True, days_later=0)
    assert store.load(commit, "mask") == b"orphan"


def test_an_old_object_that_is_put_again_counts_as_young(store: Store) -> None:
    (ref,) = orphan(store).objects.values()
    old = time.time() - 10 * DAY
    os.utime(Path(store.uri) / ref.path, (old, old))
    assert store.put(b"orphan", kind="mask", model="m" * 64, suffix="safetensors") == ref
    store.remove(["commits/mask/orphan.json"])
    collect(store, yes=True, days_later=0)
    assert store.read(ref) == b"orphan"


def test_a_mask_that_an_evaluation_applies_stays_although_no_unit_made_it(
    store: Store, tiny_store: TinyStore
) -> None:
    edit = store.put(b"a mask of elsewhere", kind="mask", model="m", suffix="safetensors")
    image_model = ImageModel(
        model=tiny_store.prepared.model, identity="", edit=Edit(kind="mask", ref=edit)
    )
    checkpoint = Checkpoint(
        label="theirs", kind="mask", digest="", erased=(), image_model=image_model
    )
    EvaluationRecord.of("judged", [checkpoint], "summary", {"name": "suite"}).write(store)
    collect(store, yes=True)
    assert store.read(edit) == b"a mask of elsewhere"
    collect(store, yes=True, forget=["judged"])
    assert edit.path not in paths(store)


def test_an_orphan_that_is_put_again_while_it_is_listed_stays(store: Store) -> None:
    orphans = [store.put(data, kind="mask", model="m", suffix="x") for data in (b"a", b"b")]
    for ref in orphans:
        os.utime(Path(store.uri) / ref.path, (0, 0))

    class Waiting(StringIO):
        def write(self, text: str) -> int:
            if orphans[0].path in text:
                # A live job's worker makes the same bytes again, now.
                store.put(b"a", kind="mask", model="m", suffix="x")
            return super().write(text)

    console = Console(file=Waiting(), width=200)
    collect_garbage(store.uri, console, yes=True, grace_hours=2)
    assert orphans[0].path in paths(store)
    assert orphans[1].path not in paths(store)


def test_an_object_that_a_run_and_an_orphan_share_stays(
    store: Store, tiny_store: TinyStore
) -> None:
    mask = tiny_store.commits[tiny_store.plan.concepts[0].mask.key]
    shared = Commit(kind="mask", key="orphan", objects=mask.objects, provenance={})
    store.commit(shared)
    collect(store, yes=True)
    assert store.find("mask", "orphan") is None
    assert store.load(mask, "mask")


def test_what_an_unfinished_run_has_and_will_have_stays(
    tiny_store: TinyStore, tmp_path: Path
) -> None:
    store = Store(str(tmp_path / "store"))
    worker = worker_of(tiny_store.prepared, store)
    first, second, *_ = (unit for unit in tiny_store.plan.units() if unit.kind == "window")
    record_run(store, tiny_store.prepared, tiny_store.plan, [done(first, worker.run(first))])
    # Committed after the last ledger, which says "pending" of it.
    worker.run(second)
    collect(store, yes=True, days_later=400)
    assert store.committed("window") == {first.key, second.key}


def test_nothing_is_removed_while_a_run_has_not_said_what_it_needs(
    store: Store, tiny_store: TinyStore
) -> None:
    orphan(store)
    before = paths(store)
    store.write_run_file("begun", "run.json", record_of(store, tiny_store.plan.run))
    with pytest.raises(StoreError, match="run begun has just begun"):
        collect(store, yes=True, days_later=0)
    assert paths(store) - before == {"runs/run=begun/run.json"}
    # Two days later it was given up.
    collect(store, yes=True)
    assert store.find("mask", "orphan") is None


def test_a_run_that_begins_meanwhile_stops_the_removal(
    store: Store, tiny_store: TinyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    orphan(store)
    before = paths(store)
    entries = Store.entries

    def begin(opened: Store, folder: str) -> object:
        if folder == "objects":
            opened.write_run_file("begun", "run.json", record_of(store, tiny_store.plan.run))
        return entries(opened, folder)

    monkeypatch.setattr(Store, "entries", begin)
    with pytest.raises(StoreError, match="a run began meanwhile, nothing was removed"):
        collect(store, yes=True)
    monkeypatch.undo()
    assert before <= paths(store)


def test_a_forgotten_run_goes_with_all_that_only_it_refers_to(
    store: Store, tiny_store: TinyStore
) -> None:
    run = tiny_store.plan.run
    before = paths(store)
    assert f"runs/run={run}/ledger.parquet" in collect(store, forget=[run])
    assert paths(store) == before
    collect(store, yes=True, forget=[run])
    assert paths(store) == set()


def test_a_run_at_work_is_not_forgotten(tiny_store: TinyStore, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    run = tiny_store.plan.run
    record_run(store, tiny_store.prepared, tiny_store.plan)
    with pytest.raises(UserError, match=f"--forget {run}: this run may be at work"):
        collect(store, yes=True, forget=[run], days_later=0)
    assert store.runs() == [run]
    collect(store, yes=True, forget=[run])
    assert store.runs() == []


def test_what_was_set_aside_and_what_a_killed_writer_left_go_with_time(store: Store) -> None:
    before = paths(store)
    commit = orphan(store)
    (ref,) = commit.objects.values()
    (Path(store.uri) / ref.path).write_bytes(b"orphaN")
    assert store.set_aside(commit)
    left = Path(store.uri) / "commits" / "mask" / ".writing-killed"
    left.write_bytes(b"{")
    aside = {f"damaged/{path}" for path in paths_of(commit)}
    assert paths(store) - before == {*aside, "commits/mask/.writing-killed"}
    collect(store, yes=True)
    assert paths(store) == before


def test_the_claim_of_a_worker_that_was_killed_goes_with_time(store: Store) -> None:
    before = paths(store)
    store.create_claim("window/k.json", b"{}")
    assert paths(store) - before == {"claims/window/k.json"}
    collect(store, yes=True)
    assert paths(store) == before


def test_a_damaged_record_is_not_moved_by_a_listing(store: Store, tiny_store: TinyStore) -> None:
    key = tiny_store.plan.concepts[0].mask.key
    path = Path(store.uri) / "commits" / "mask" / f"{key}.json"
    data = path.read_bytes()
    path.unlink()  # It shares its bytes with the original by a hard link.
    path.write_bytes(data[:-20])
    collect(store)
    assert path.read_bytes() == data[:-20]


def test_a_damaged_ledger_stops_it_until_its_run_is_forgotten(
    store: Store, tiny_store: TinyStore
) -> None:
    run, before = tiny_store.plan.run, paths(store)
    damage_ledger(store, run)
    with pytest.raises(StoreError, match=f"runs/run={run}/ledger.parquet is damaged"):
        collect(store, yes=True)
    assert paths(store) == before
    collect(store, yes=True, forget=[run])
    assert paths(store) == set()


def test_a_damaged_ledger_costs_a_rerun_only_the_reading_of_records(
    store: Store, tiny_store: TinyStore, caplog: pytest.LogCaptureFixture
) -> None:
    whole = reused_units(tiny_store.plan, store, (), committed_in(store))
    damage_ledger(store, tiny_store.plan.run)
    found = reused_units(tiny_store.plan, store, (), committed_in(store))
    assert {key: made["objects"] for key, made in found.items()} == {
        key: made["objects"] for key, made in whole.items()
    }
    assert f"runs/run={tiny_store.plan.run}/ledger.parquet is damaged" in caplog.text


def test_what_a_job_found_in_the_store_stays_young_for_longer_than_the_job_trusts_it() -> None:
    assert 3600 * LEAST_GRACE_HOURS >= 2 * RENEWED_AFTER


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--forget", "nosuch"], "--forget nosuch"),
        (["--grace", "1"], "--grace 1: give at least 2"),
        (["--grace", "nan"], "--grace nan: give at least 2"),
    ],
)
def test_bad_input_is_refused(
    store: Store, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = paths(store)
    with pytest.raises(SystemExit) as stop:
        main(["gc", store.uri, "--yes", *options])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert paths(store) == before
