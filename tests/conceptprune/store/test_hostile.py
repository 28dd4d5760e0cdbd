"""A store that somebody else can write: nothing in it leads out of it, or hands out another's."""

import io
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conceptprune.digest import canonical_json, digest_bytes, digest_json
from conceptprune.errors import StoreError
from conceptprune.store import (
    Commit,
    LostUnitError,
    ObjectRef,
    Store,
    parquet_to_table,
    table_to_parquet,
)
from conceptprune.store.claims import Claim

DIGEST = digest_bytes(b"data")
GOOD = f"objects/mask/model=m/{DIGEST}.bin"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def commit(store: Store, key: str = "k") -> Commit:
    ref = store.put(b"data", kind="mask", model="m", suffix="bin")
    made = Commit(kind="mask", key=key, objects={"mask": ref}, provenance={})
    store.commit(made)
    return made


def plant(store: Store, path: str, **changes: object) -> None:
    """A record that is whole, by its own digest, and says what it should not."""
    content = {
        "format": "conceptprune.store/3",
        "kind": "mask",
        "key": "k",
        "objects": {"mask": {"path": GOOD, "digest": DIGEST, "size": 4}},
        "provenance": {},
        **changes,
    }
    place = Path(store.uri, path)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(canonical_json({**content, "sha256": digest_json(content)}))


@pytest.mark.parametrize(
    "path",
    [
        "{outside}",
        "../outside.bin",
        "objects/../../outside.bin",
        f"objects/mask/../{DIGEST}.bin",
        f"objects/mask/model=m/{'0' * 64}.bin",
        f"objects/mask/model=../{DIGEST}.bin",
        f"objects/mask/model=m/{DIGEST}",
        f"objects/mask/model=m/x/{DIGEST}.bin",
        f"commits/mask/model=m/{DIGEST}.bin",
        f"objects/mask/model=m/{DIGEST}.bin\n",
    ],
)
def test_a_record_of_an_object_elsewhere_moves_nothing_and_counts_as_damaged(
    store: Store, tmp_path: Path, path: str
) -> None:
    outside = tmp_path / "outside.bin"
    outside.write_bytes(b"private")
    ref = {"path": path.format(outside=outside), "digest": DIGEST, "size": 4}
    plant(store, "commits/mask/k.json", objects={"mask": ref})
    assert store.find("mask", "k") is None
    with pytest.raises(LostUnitError):
        store.get("mask", "k")
    assert outside.read_bytes() == b"private"
    assert Path(store.uri, "damaged/commits/mask/k.json").is_file()


def test_a_record_without_a_fault_is_read(store: Store) -> None:
    plant(store, "commits/mask/k.json")
    assert store.get("mask", "k").objects["mask"].path == GOOD


@pytest.mark.parametrize(
    "objects", [[], {"mask": 1}, {"mask": {"path": GOOD}}, {"mask": {"path": 1, "digest": 2}}]
)
def test_a_record_of_another_shape_counts_as_damaged(store: Store, objects: object) -> None:
    plant(store, "commits/mask/k.json", objects=objects)
    assert store.find("mask", "k") is None


@pytest.mark.parametrize("place", ["commits/mask/other.json", "commits/preview/k.json"])
def test_a_record_copied_under_another_key_or_kind_is_not_that_units(
    store: Store, place: str
) -> None:
    commit(store)
    copy = Path(store.uri, place)
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_bytes(Path(store.uri, "commits/mask/k.json").read_bytes())
    kind, key = copy.parent.name, copy.stem
    assert store.find(kind, key) is None
    assert store.find("mask", "k") is not None
    with pytest.raises(LostUnitError, match="run the job again"):
        store.get(kind, key)


@pytest.mark.parametrize("path", ["/etc/hostname", "../x", "objects/../../x", "objects//x", ""])
@pytest.mark.parametrize("uri", ["{folder}", "memory-of-tests://{folder}"])
def test_no_path_resolves_outside_the_root(tmp_path: Path, uri: str, path: str) -> None:
    import fsspec
    from fsspec.implementations.memory import MemoryFileSystem

    fsspec.register_implementation("memory-of-tests", MemoryFileSystem, clobber=True)
    store = Store(uri.format(folder=tmp_path / "store"))
    with pytest.raises(StoreError, match="not a path below"):
        store.read(ObjectRef(path=path, digest=DIGEST, size=4))
    with pytest.raises(StoreError, match="not a path below"):
        store.remove([path])
    with pytest.raises(StoreError, match="not a path below"):
        store.find("..", f"../{path}")


def test_a_listing_follows_no_link_and_ends_at_a_loop(store: Store, tmp_path: Path) -> None:
    made = commit(store)
    private = tmp_path / "private"
    private.mkdir()
    (private / "file").write_bytes(b"private")
    objects = Path(store.uri, "objects")
    (objects / "loop").symlink_to(objects)
    (objects / "private").symlink_to(private)
    (objects / "mask" / "file").symlink_to(private / "file")
    mask = made.objects["mask"]
    assert [entry.path for entry in store.entries("objects")] == [mask.path]
    within = replace(mask, path=mask.path.replace("objects/", "objects/loop/"))
    assert store.read(within) == store.read(mask)
    for path in ("objects/private/file", "objects/mask/file"):
        with pytest.raises(StoreError, match="link"):
            store.read(ObjectRef(path=path, digest=digest_bytes(b"private"), size=7))
        with pytest.raises(StoreError, match="link"):
            store.remove([path])
    assert (private / "file").read_bytes() == b"private"


def test_a_store_whose_own_folder_is_a_link_is_one(store: Store, tmp_path: Path) -> None:
    made = commit(store)
    (tmp_path / "link").symlink_to(store.uri)
    assert Store(str(tmp_path / "link")).find("mask", "k") == made


def test_a_pipe_in_the_place_of_a_record_lets_nobody_wait(store: Store) -> None:
    place = Path(store.uri, "commits/mask/k.json")
    place.parent.mkdir(parents=True)
    os.mkfifo(place)
    with pytest.raises(StoreError, match="not a regular file"):
        store.find("mask", "k")


def test_of_an_object_that_grew_no_more_is_read_than_its_record_says(store: Store) -> None:
    ref = commit(store).objects["mask"]
    with Path(store.uri, ref.path).open("r+b") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(StoreError, match="is damaged: 5 of 4 bytes"):
        store.read(ref)


def test_records_written_so_far_are_read(store: Store) -> None:
    made = commit(store)
    written = json.loads(Path(store.uri, "commits/mask/k.json").read_bytes())
    assert (written["kind"], written["key"]) == ("mask", "k")
    assert store.find("mask", "k") == made


def bomb(kind: str, path: Path) -> None:
    """A small file of a large table."""
    match kind:
        case "one text, repeated":
            array = pa.DictionaryArray.from_arrays(
                pa.array([0] * 400_000, pa.int32()), ["x" * 200_000]
            )
        case "one text, repeated in lists":
            texts = pa.DictionaryArray.from_arrays(
                pa.array([0] * 400_000, pa.int32()), ["x" * 20_000]
            )
            array = pa.ListArray.from_arrays(pa.array([0, 200_000, 400_000], pa.int32()), texts)
    pq.write_table(pa.table({"a": array}), path, store_schema=False, compression="zstd")


@pytest.mark.parametrize("kind", ["one text, repeated", "one text, repeated in lists"])
def test_a_table_that_would_fill_the_memory_is_refused_within_little_of_it(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "bomb.parquet"
    bomb(kind, path)
    assert path.stat().st_size < 5_000_000
    before = pa.total_allocated_bytes()
    with pytest.raises(StoreError, match="expands to over"):
        parquet_to_table(path.read_bytes())
    assert pa.default_memory_pool().max_memory() - before < 1 << 30


def test_a_table_of_more_rows_than_anybody_holds_is_refused_before_they_are_read() -> None:
    schema = pa.schema(
        [("key", pa.bool_())],
        metadata={"conceptprune.format": "x/1", "conceptprune.sorted_by": "key"},
    )
    sink = io.BytesIO()
    # A few bytes for a hundred million rows.
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        group = pa.table({"key": pa.array(np.zeros(1 << 20, bool))}, schema=schema)
        for _ in range(100):
            writer.write_table(group)
    assert len(sink.getvalue()) < 1_000_000
    before = pa.total_allocated_bytes()
    with pytest.raises(StoreError, match=r"of 104,857,600 rows, more than"):
        parquet_to_table(sink.getvalue())
    assert pa.default_memory_pool().max_memory() - before < 1 << 30
    table = pa.table({"key": [False] * 11}, schema=schema)
    with pytest.raises(StoreError, match="of 11 rows, more than 10"):
        parquet_to_table(table_to_parquet(table), most_rows=10)
    assert len(parquet_to_table(table_to_parquet(table), most_rows=11)) == 11


@pytest.mark.parametrize(
    "path", ["commits/mask/k.json", "events/0000000001.json", "runs/run=r/a.json"]
)
def test_a_file_larger_than_any_of_its_kind_is_not_read(store: Store, path: str) -> None:
    place = Path(store.uri, path)
    place.parent.mkdir(parents=True)
    place.touch()
    os.truncate(place, 1 << 29)  # Sparse: reading it would take as much memory.
    read = {
        "commits": lambda: store.find("mask", "k"),
        "events": lambda: store.read_event("0000000001.json"),
        "runs": lambda: store.read_run_file("r", "a.json"),
    }
    with pytest.raises(StoreError, match="larger than"):
        read[path.partition("/")[0]]()


def test_of_a_claim_larger_than_any_only_the_beginning_is_read_which_is_none(store: Store) -> None:
    place = Path(store.uri, "claims/mask/k.json")
    place.parent.mkdir(parents=True)
    place.touch()
    os.truncate(place, 1 << 29)
    data = store.read_claim("mask/k.json")
    assert data is not None
    assert len(data) < 1 << 17
    assert Claim.from_bytes(data, "mask/k.json") is None


@pytest.mark.parametrize(
    ("suffix", "kind", "size"),
    [
        ("bin", "mask", 10**30),
        ("bin", "mask", (1 << 33) + 1),
        ("safetensors", "delta", (1 << 36) + 1),
        ("parquet", "preview", (1 << 32) + 1),
        ("bin", "mask", -1),
        ("bin", "mask", True),
        ("bin", "mask", 4.0),
    ],
)
def test_a_record_of_a_size_that_nothing_of_its_kind_has_counts_as_damaged(
    store: Store, suffix: str, kind: str, size: object
) -> None:
    """Its object would be read as far as that."""
    path = f"objects/{kind}/model=m/{DIGEST}.{suffix}"
    plant(
        store, "commits/mask/k.json", objects={"x": {"path": path, "digest": DIGEST, "size": size}}
    )
    assert store.find("mask", "k") is None


@pytest.mark.parametrize(
    "provenance",
    [{"x": 10**400}, {"x": "\ud800"}, {"\udfff": 1}, {"x": [[[]]] * 2}, None],
    ids=["endless", "no character", "no name", "plain", "deep"],
)
def test_a_record_that_could_not_be_shown_or_written_again_counts_as_damaged(
    store: Store, provenance: dict[str, object] | None
) -> None:
    inner: object = 0
    for _ in range(200):
        inner = [inner]
    plain = provenance == {"x": [[[]]] * 2}
    plant(
        store, "commits/mask/k.json", provenance={"x": inner} if provenance is None else provenance
    )
    assert (store.find("mask", "k") is not None) == plain


def test_texts_that_repeat_are_read_while_they_fit(tmp_path: Path) -> None:
    schema = pa.schema(
        [("key", pa.string()), ("needs", pa.list_(pa.string()))],
        metadata={"conceptprune.format": "x/1", "conceptprune.sorted_by": "key"},
    )
    rows = [{"key": f"{index:06}", "needs": ["n" * 64] * 3} for index in range(20_000)]
    table = pa.Table.from_pylist(rows, schema=schema)
    assert parquet_to_table(table_to_parquet(table)).equals(table)
