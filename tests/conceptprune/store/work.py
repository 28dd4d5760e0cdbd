"""Work that tests commit, a listing of it, and a kind of store that stands for any other."""

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

from conceptprune.store import Commit, ObjectRef, Store


class Lake(MemoryFileSystem):  # type: ignore[misc]
    """Stands for any object store that fsspec knows: its own in-memory one, by another name."""

    protocol = "lake"


fsspec.register_implementation("lake", Lake)


def committed(
    store: Store, data: bytes, key: str = "k", kind: str = "mask", **provenance: object
) -> Commit:
    ref = store.put(data, kind=kind, model="m" * 64, suffix="bin")
    commit = Commit(kind=kind, key=key, objects={"mask": ref}, provenance=provenance)
    store.commit(commit)
    return commit


def commit(store: Store, data: bytes, key: str = "k", **provenance: object) -> ObjectRef:
    return committed(store, data, key, "mask", **provenance).objects["mask"]


def paths(store: Store, *folders: str) -> list[str]:
    return sorted(entry.path for folder in folders for entry in store.entries(folder))
