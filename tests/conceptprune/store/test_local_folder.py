"""A store in a local folder: with a full disk, without hard links, for many processes."""

import errno
import multiprocessing
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from conceptprune.errors import StoreError
from conceptprune.store import Store
from tests.conceptprune.store.work import commit, paths


@pytest.fixture
def folder(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def test_writing_leaves_no_temporary_files(folder: Store) -> None:
    commit(folder, b"data")
    commit(folder, b"data")
    assert not list(Path(folder.uri).rglob(".writing-*"))


def test_what_a_killed_writer_left_is_no_committed_work(folder: Store) -> None:
    commit(folder, b"data")
    (Path(folder.uri) / "commits" / "mask" / ".writing-x").write_bytes(b"{")
    assert folder.committed("mask") == {"k"}


def test_a_folder_without_hard_links_is_told_apart_and_used_all_the_same(
    folder: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    assert not folder.check()
    assert "does not honour conditional puts" in caplog.text
    ref = commit(folder, b"data")
    with pytest.raises(StoreError, match="not deterministic"):
        commit(folder, b"other")
    assert folder.read(ref) == b"data"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root may mount a disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def test_a_full_disk_is_one_clear_error_and_leaves_nothing_half_written(small_disk: Path) -> None:
    store = Store(str(small_disk / "store"))
    ref = commit(store, b"data")
    before = files(small_disk)
    with pytest.raises(StoreError, match=r"cannot write objects/mask.*No space left on device"):
        commit(store, bytes(10**6), key="large")
    with pytest.raises(StoreError, match=r"cannot write runs/.*No space left on device"):
        store.write_run_file("r", "ledger", bytes(10**6))
    assert files(small_disk) == before
    assert store.committed("mask") == {"k"}
    assert store.read(ref) == b"data"


def test_a_write_that_is_cut_off_is_one_clear_error_and_leaves_nothing(folder: Store) -> None:
    commit(folder, b"data")
    before = files(Path(folder.uri))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(StoreError, match=r"cannot write objects/mask.*File too large"):
            commit(folder, bytes(10**6), key="large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert files(Path(folder.uri)) == before


@pytest.mark.parametrize("place", ["/proc/store", "/dev/null/store"])
def test_a_place_that_cannot_be_written_fails_the_check(place: str) -> None:
    with pytest.raises(StoreError, match=f"{place}: cannot write probe/[0-9a-f]{{32}}: "):
        Store(place).check()


def test_a_disk_mounted_for_reading_only_is_one_clear_error(small_disk: Path) -> None:
    store = Store(str(small_disk / "store"))
    ref = commit(store, b"data")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StoreError, match="Read-only file system"):
        commit(store, b"other", key="other")
    with pytest.raises(StoreError, match=r"cannot write probe.*Read-only file system"):
        Store(str(small_disk / "new")).check()
    assert store.read(ref) == b"data"


def test_finished_work_is_listed_without_reading_a_record(folder: Store) -> None:
    """Empty files stand for records here: reading one would say that it is damaged."""
    records = Path(folder.uri) / "commits" / "window"
    records.mkdir(parents=True)
    for index in range(2000):
        (records / f"{index:064x}.json").touch()
    assert len(folder.committed("window")) == 2000
    assert paths(folder, "damaged") == []


def _commit_in(store: Store, data: bytes, answers: "multiprocessing.Queue[str]") -> None:
    try:
        commit(store, data)
        answers.put("stored")
    except StoreError as error:
        answers.put(str(error))


def test_of_many_processes_with_other_results_one_wins_and_the_rest_are_told(
    folder: Store,
) -> None:
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    workers = [
        context.Process(target=_commit_in, args=(folder, str(index % 3).encode(), answers))
        for index in range(9)
    ]
    for worker in workers:
        worker.start()
    told = [answers.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert told.count("stored") == 3
    assert sum("not deterministic" in answer for answer in told) == 6
