"""A rerun computes what was lost of its results, and nothing else; here in this process."""

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from conceptprune.errors import ModelMismatchError
from conceptprune.manifest import FolderModel
from conceptprune.store import Store
from conceptprune.units.commit import Done
from conceptprune.units.results import read_mask
from conceptprune.units.unit import Unit
from conceptprune.units.units import FusedMaskUnit
from pipelines.commands.gc import collect_garbage
from pipelines.commands.status import show_status
from pipelines.jobs.erase import JobResult, run_job
from pipelines.jobs.run import OnResult, OnTick, RunUnits
from pipelines.records.ledger import read_ledger, write_ledger
from pipelines.report.data import read_report
from pipelines.scheduling.loop import Result
from pipelines.scheduling.workers import RunnerSpec
from tests.pipelines.conftest import TinyStore, copied, worker_of

Rerun = Callable[..., JobResult]


@pytest.fixture
def store(tiny_store: TinyStore, tmp_path: Path) -> Store:
    return copied(tiny_store, tmp_path / "store")


@pytest.fixture
def rerun(tiny_store: TinyStore, monkeypatch: pytest.MonkeyPatch) -> Rerun:
    """Runs the job; its units are run one after the other, by a worker in another folder."""

    @contextmanager
    def in_this_process(spec: RunnerSpec, *_: object) -> Iterator[RunUnits]:
        def run(
            units: Sequence[Unit],
            _: Mapping[str, Unit],
            on_result: OnResult,
            on_tick: OnTick,
        ) -> None:
            here = Path.cwd()
            os.chdir("/")
            try:
                runner = spec.build()
                for unit in units:
                    done = runner.run_claimed(unit)
                    assert isinstance(done, Done)
                    status = "done" if done.computed else "reused"
                    on_result(Result(unit=unit, status=status, attempts=1, commit=done.commit))
            finally:
                os.chdir(here)

        yield run

    monkeypatch.setattr("pipelines.jobs.erase.unit_runner", in_this_process)

    def rerun(uri: str, *, verify: bool = False) -> JobResult:
        return run_job(tiny_store.prepared, uri, Console(file=StringIO()), verify=verify)

    return rerun


def computed(result: JobResult) -> list[str]:
    return [row["key"] for row in result.outcome.rows if row["status"] == "done"]


def write(store: Store, path: str, data: bytes | None) -> None:
    """Write or remove a file; it shares its bytes with the original by a hard link."""
    (Path(store.uri) / path).unlink()
    if data is not None:
        (Path(store.uri) / path).write_bytes(data)


def test_a_whole_store_leaves_nothing_to_do(store: Store, rerun: Rerun) -> None:
    assert rerun(store.uri).outcome.computed == 0
    assert rerun(store.uri, verify=True).outcome.computed == 0
    assert list(store.entries("damaged")) == []


@pytest.mark.parametrize("damage", ["missing", "cut short", "flipped"])
def test_a_damaged_result_is_made_again_a_flipped_bit_with_verify(
    store: Store, tiny_store: TinyStore, rerun: Rerun, damage: str
) -> None:
    mask = tiny_store.plan.concepts[0].mask.key
    ref = store.get("mask", mask).objects["mask"]
    data = store.read(ref)
    write(
        store,
        ref.path,
        {"missing": None, "cut short": data[:-9], "flipped": data[:-1] + b"?"}[damage],
    )
    result = rerun(store.uri, verify=damage == "flipped")
    assert computed(result) == [mask]
    assert not result.outcome.failed
    assert store.load(store.get("mask", mask), "mask") == data


@pytest.mark.parametrize("with_ledger", [True, False])
def test_a_result_with_a_damaged_record_is_made_again(
    store: Store, tiny_store: TinyStore, rerun: Rerun, with_ledger: bool
) -> None:
    mask = tiny_store.plan.concepts[0].mask.key
    write(store, f"commits/mask/{mask}.json", b"{")
    if not with_ledger:
        write(store, f"runs/run={tiny_store.plan.run}/ledger.parquet", None)
    # Where a ledger has it all, no record is read unless that is asked for.
    assert computed(rerun(store.uri, verify=with_ledger)) == [mask]
    assert store.find("mask", mask)


def test_what_only_a_lost_result_needs_is_made_again_too(
    store: Store, tiny_store: TinyStore, rerun: Rerun
) -> None:
    concept = tiny_store.plan.concepts[0]
    (kind, side), *_ = concept.mask.needs
    write(store, f"commits/{kind}/{side}.json", None)
    assert rerun(store.uri).outcome.computed == 0
    write(store, f"commits/mask/{concept.mask.key}.json", None)
    assert computed(rerun(store.uri)) == [side, concept.mask.key]


def test_workers_write_to_the_folder_that_the_driver_means(
    store: Store, tiny_store: TinyStore, rerun: Rerun, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = tiny_store.plan.concepts[0].mask.key
    write(store, f"commits/mask/{mask}.json", None)
    monkeypatch.chdir(Path(store.uri).parent)
    assert computed(rerun(Path(store.uri).name)) == [mask]
    assert store.find("mask", mask)


def test_a_worker_whose_model_folder_is_another_does_nothing(
    tiny_store: TinyStore, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_store.model, model)
    config = model / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text() + "\n")
    source = FolderModel(folder=str(model))
    stale = replace(tiny_store.prepared.model, source=source)
    store = copied(tiny_store, tmp_path / "store")
    worker = worker_of(replace(tiny_store.prepared, model=stale), store)
    concept = tiny_store.plan.concepts[0]
    window = next(unit for unit in tiny_store.plan.units() if unit.kind == "window")
    for unit in (concept.mask, window):
        write(store, f"commits/{unit.kind}/{unit.key}.json", None)
        with pytest.raises(ModelMismatchError, match=f"{model} on .* was planned with"):
            worker.run(unit)
        assert not store.find(unit.kind, unit.key)


@pytest.fixture
def earlier(store: Store, tiny_store: TinyStore) -> Store:
    """The store as an earlier version left it, which called a fused mask a mask."""
    fused = tiny_store.plan.combined
    assert fused
    commit = tiny_store.commits[fused.key]
    write(store, f"commits/{FusedMaskUnit.kind}/{fused.key}.json", None)
    store.commit(replace(commit, kind="mask"))
    rows = read_ledger(store, tiny_store.plan.run)
    for row in rows:
        row["kind"] = "mask" if row["key"] == fused.key else row["kind"]
    write(store, f"runs/run={tiny_store.plan.run}/ledger.parquet", None)
    write_ledger(store, tiny_store.plan.run, rows)
    return store


@pytest.mark.parametrize("rerun_first", [False, True])
def test_a_fused_mask_is_found_where_an_earlier_version_committed_it(
    earlier: Store, tiny_store: TinyStore, rerun: Rerun, rerun_first: bool
) -> None:
    fused = tiny_store.plan.combined
    assert fused
    if rerun_first:
        # Nothing is done again; from then on the ledger has the kind's new name.
        assert rerun(earlier.uri, verify=True).outcome.computed == 0
        rows = {row["key"]: row for row in read_ledger(earlier, tiny_store.plan.run)}
        assert rows[fused.key]["kind"] == FusedMaskUnit.kind
        assert rows[fused.key]["objects"]
    digest = tiny_store.commits[fused.key].objects["mask"].digest
    assert read_mask(earlier, fused.key).digest == digest
    report = read_report(earlier.uri, tiny_store.plan.run)
    assert report.combined
    assert report.combined.facts
    assert report.combined.facts.digest == digest
    shown = StringIO()
    show_status(earlier.uri, Console(file=shown))
    assert "a rerun would compute nothing" in shown.getvalue()
    # It is no garbage, either.
    two_days = time.time() + 2 * 86400
    collect_garbage(earlier.uri, Console(file=StringIO()), yes=True, now=two_days)
    assert earlier.find("mask", fused.key)
