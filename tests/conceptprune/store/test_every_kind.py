"""The store: objects and commits are written once, whole, and checked when read."""

import pickle
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from conceptprune.errors import StoreError
from conceptprune.store import Commit, LostUnitError, Store
from tests.conceptprune.store.work import commit, paths
from tests.support.s3_server import BUCKET, SeaweedServer, running_server, use_server


@pytest.fixture(scope="module")
def server() -> Iterator[SeaweedServer]:
    with running_server() as running:
        yield running


@pytest.fixture(params=["folder", "memory", pytest.param("s3", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A local folder, fsspec's in-memory object store, and a real S3 server."""
    if request.param == "folder":
        return Store(str(tmp_path / "store"))
    if request.param == "memory":
        return Store(f"lake://{tmp_path}")
    use_server(monkeypatch, request.getfixturevalue("server").endpoint)
    return Store(f"s3://{BUCKET}/{uuid4().hex[:8]}")


def damage(store: Store, path: str, data: bytes | None) -> None:
    """Write other bytes, or with None nothing, where an object was: as bad disks do."""
    if data is None:
        store.remove([path])
    else:
        store._backend.replace(path, data)


def test_what_was_committed_is_found_and_read(store: Store) -> None:
    ref = commit(store, b"data", seconds=1.5)
    found = store.get("mask", "k")
    assert found.objects == {"mask": ref}
    assert found.provenance == {"seconds": 1.5}
    assert store.read(ref) == b"data"
    assert store.load(found, "mask") == b"data"
    assert store.committed("mask") == {"k"}


def test_what_was_not_committed_is_not_there(store: Store) -> None:
    assert store.find("mask", "k") is None
    assert store.committed("mask") == frozenset()
    assert store.runs() == []
    with pytest.raises(LostUnitError, match="not in the store") as caught:
        store.get("mask", "k")
    assert (caught.value.kind, caught.value.key) == ("mask", "k")


def test_committing_equal_results_again_keeps_the_first_record(store: Store) -> None:
    commit(store, b"data", worker="first")
    commit(store, b"data", worker="second")
    assert store.get("mask", "k").provenance["worker"] == "first"


def test_committing_other_results_is_an_error_that_names_both_digests(store: Store) -> None:
    first = commit(store, b"data")
    with pytest.raises(StoreError, match=f"mask k is not deterministic.*{first.digest}") as caught:
        commit(store, b"other")
    assert store.put(b"other", kind="x", model="m", suffix="bin").digest in str(caught.value)
    assert store.read(store.get("mask", "k").objects["mask"]) == b"data"


@pytest.mark.parametrize("roles", [(), ("mask", "state")], ids=["fewer", "more"])
def test_committing_other_roles_is_an_error(store: Store, roles: tuple[str, ...]) -> None:
    ref = commit(store, b"data")
    with pytest.raises(StoreError, match=f"not deterministic.*{ref.digest}.*not made|not made"):
        store.commit(Commit(kind="mask", key="k", objects=dict.fromkeys(roles, ref), provenance={}))


def test_a_run_file_is_replaced_whole(store: Store) -> None:
    store.write_run_file("r1", "ledger", b"one")
    store.write_run_file("r1", "ledger", b"two")
    assert store.read_run_file("r1", "ledger") == b"two"
    assert store.read_run_file("r1", "other") is None
    assert store.runs() == ["r1"]


def test_a_listing_tells_paths_sizes_and_times(store: Store) -> None:
    ref = commit(store, b"data")
    (entry,) = store.entries("objects")
    assert (entry.path, entry.size) == (ref.path, 4)
    assert abs(entry.modified - time.time()) < 60
    assert paths(store, "commits", "objects", "runs") == ["commits/mask/k.json", ref.path]


def test_what_is_removed_is_gone_and_may_be_removed_again(store: Store) -> None:
    ref = commit(store, b"data")
    for _ in range(2):
        store.remove(["commits/mask/k.json", ref.path])
        assert paths(store, "commits", "objects") == []


@pytest.mark.parametrize(
    "damaged", [b"dat", b"dbta", b"", None], ids=["truncated", "flipped", "empty", "missing"]
)
def test_a_damaged_or_missing_object_is_set_aside_and_made_anew(
    store: Store, damaged: bytes | None
) -> None:
    ref = commit(store, b"data")
    found = store.get("mask", "k")
    damage(store, ref.path, damaged)
    with pytest.raises(StoreError, match=r"damaged|missing"):
        store.read(ref)
    with pytest.raises(LostUnitError, match=r"damaged|missing") as caught:
        store.load(found, "mask")
    assert (caught.value.kind, caught.value.key, caught.value.path) == ("mask", "k", ref.path)
    assert store.committed("mask") == frozenset()
    aside = ["damaged/commits/mask/k.json"]
    aside += [] if damaged is None else [f"damaged/{ref.path}"]
    assert paths(store, "damaged", "objects") == aside
    commit(store, b"data")
    assert store.load(store.get("mask", "k"), "mask") == b"data"


@pytest.mark.parametrize("size", [0, 40, -1], ids=["empty", "truncated", "flipped"])
def test_a_damaged_record_does_not_count_and_is_set_aside_and_made_anew(
    store: Store, size: int
) -> None:
    commit(store, b"data")
    path = "commits/mask/k.json"
    record = store.get("mask", "k").to_bytes()
    flipped = record.replace(b'"size":4', b'"size":5')
    damage(store, path, flipped if size < 0 else record[:size])
    assert store.find("mask", "k") is None
    with pytest.raises(LostUnitError, match="its record was damaged"):
        store.get("mask", "k")
    assert paths(store, "damaged", "commits") == [f"damaged/{path}"]
    damage(store, path, b"{")
    commit(store, b"data")
    assert store.get("mask", "k").to_bytes() == record


def test_work_that_is_whole_is_not_set_aside(store: Store) -> None:
    commit(store, b"data")
    found = store.get("mask", "k")
    assert not store.set_aside(found)
    assert not store.set_aside(Commit(kind="mask", key="other", objects={}, provenance={}))
    assert store.committed("mask") == {"k"}
    assert paths(store, "damaged") == []


def test_work_that_was_committed_anew_is_not_set_aside_for_its_old_record(store: Store) -> None:
    ref = commit(store, b"data", worker="first")
    old = store.get("mask", "k")
    store.remove(["commits/mask/k.json"])
    commit(store, b"data", worker="second")
    damage(store, ref.path, b"x")
    assert not store.set_aside(old)
    assert store.set_aside(store.get("mask", "k"))


def test_an_object_of_the_wrong_length_is_written_over(store: Store) -> None:
    ref = store.put(b"data", kind="mask", model="m", suffix="bin")
    damage(store, ref.path, b"dat")
    assert store.put(b"data", kind="mask", model="m", suffix="bin") == ref
    assert store.read(ref) == b"data"


def test_a_record_of_another_format_is_an_error_and_stays(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as later:
        later.setattr("conceptprune.store.records.FORMAT", "conceptprune.store/99")
        commit(store, b"data")
    with pytest.raises(StoreError, match=r"format conceptprune\.store/99"):
        store.get("mask", "k")
    with pytest.raises(StoreError, match=r"format conceptprune\.store/99"):
        commit(store, b"data")
    assert store.committed("mask") == {"k"}


def test_the_check_finds_conditional_puts_and_leaves_the_store_as_it_was(store: Store) -> None:
    assert store.check()
    assert store.check()
    assert store.runs() == []
    assert paths(store, "commits", "objects", "damaged", "probe") == []


def test_what_an_earlier_check_left_behind_is_not_in_the_way(store: Store) -> None:
    store._backend.replace("probe/conditional-put", b"damaged")
    assert store.check()
    assert paths(store, "probe") == ["probe/conditional-put"]


def test_a_pickled_store_is_its_uri(store: Store) -> None:
    commit(store, b"data")
    data = pickle.dumps(store)
    assert len(data) < 300
    assert pickle.loads(data).read(store.get("mask", "k").objects["mask"]) == b"data"  # noqa: S301


def test_a_store_in_a_relative_folder_is_the_same_for_a_process_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here = Store("runs/demo")
    ref, data, place = commit(here, b"data"), pickle.dumps(here), here.place
    monkeypatch.chdir("/")
    assert Store(place).read(ref) == pickle.loads(data).read(ref) == b"data"  # noqa: S301
    assert Store("lake://x/y").place == "lake://x/y"


def test_an_error_about_lost_work_survives_pickling() -> None:
    error = LostUnitError("m", kind="window", key="k", path="p")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (str(copy), copy.kind, copy.key, copy.path) == ("m", "window", "k", "p")
