"""Work that tests commit to the store."""

from conceptprune.store import Commit, Store


def committed(store: Store, data: bytes, key: str = "k", kind: str = "mask") -> Commit:
    ref = store.put(data, kind=kind, model="m" * 64, suffix="bin")
    commit = Commit(kind=kind, key=key, objects={"mask": ref}, provenance={})
    store.commit(commit)
    return commit
