"""The store: objects and commits are written once, whole, and checked when read."""

from pathlib import Path

import pytest

from conceptprune.errors import StoreError, UserError
from conceptprune.store import Commit, ObjectRef, Store


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A local folder, and fsspec's in-memory object store."""
    return Store(str(tmp_path / "store") if request.param == "folder" else f"memory://{tmp_path}")


def commit(store: Store, data: bytes, key: str = "k", **provenance: object) -> ObjectRef:
    ref = store.put(data, kind="mask", model="m" * 64, suffix="bin")
    store.commit(Commit(kind="mask", key=key, objects={"mask": ref}, provenance=provenance))
    return ref


def test_what_was_committed_is_found_and_read(store: Store) -> None:
    ref = commit(store, b"data", seconds=1.5)
    found = store.get("mask", "k")
    assert found.objects == {"mask": ref}
    assert found.provenance == {"seconds": 1.5}
    assert store.read(ref) == b"data"
    assert store.committed("mask") == {"k"}


def test_what_was_not_committed_is_not_there(store: Store) -> None:
    assert store.find("mask", "k") is None
    assert store.committed("mask") == frozenset()
    assert store.runs() == []
    with pytest.raises(StoreError, match="not in the store"):
        store.get("mask", "k")


def test_committing_equal_results_again_keeps_the_first_record(store: Store) -> None:
    commit(store, b"data", worker="first")
    commit(store, b"data", worker="second")
    assert store.get("mask", "k").provenance["worker"] == "first"


def test_committing_other_results_is_an_error_that_names_both_digests(store: Store) -> None:
    first = commit(store, b"data")
    with pytest.raises(StoreError, match=f"not deterministic.*{first.digest}"):
        commit(store, b"other")
    assert store.read(store.get("mask", "k").objects["mask"]) == b"data"


def test_a_run_file_is_replaced_whole(store: Store) -> None:
    store.write_run_file("r1", "ledger", b"one")
    store.write_run_file("r1", "ledger", b"two")
    assert store.read_run_file("r1", "ledger") == b"two"
    assert store.read_run_file("r1", "other") is None
    assert store.runs() == ["r1"]


def test_a_damaged_or_missing_object_is_never_used(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    ref = commit(store, b"data")
    path = tmp_path / ref.path
    path.write_bytes(b"dat")
    with pytest.raises(StoreError, match="damaged"):
        store.read(ref)
    path.unlink()
    with pytest.raises(StoreError, match="missing"):
        store.read(ref)


def test_writing_leaves_no_temporary_files(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    commit(store, b"data")
    commit(store, b"data")
    assert not list(tmp_path.rglob(".writing-*"))


def test_an_unknown_kind_of_store_is_a_user_error() -> None:
    with pytest.raises(UserError, match="--store nosuch://x"):
        Store("nosuch://x")
