"""The store: objects and commits are written once, whole, and checked when read."""

import errno
import multiprocessing
import os
import pickle
import resource
import subprocess
import time
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from uuid import uuid4

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from conceptprune.errors import StoreError, UserError
from conceptprune.redaction import redacted
from conceptprune.store import (
    Commit,
    LostUnitError,
    ObjectRef,
    Store,
    parquet_to_table,
    table_to_parquet,
)
from tests.support.s3_server import BUCKET, SeaweedServer, running_server, use_server


class Lake(MemoryFileSystem):  # type: ignore[misc]
    """Stands for any object store that fsspec knows: its own in-memory one, by another name."""

    protocol = "lake"


fsspec.register_implementation("lake", Lake)


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


@pytest.fixture
def folder(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def commit(store: Store, data: bytes, key: str = "k", **provenance: object) -> ObjectRef:
    ref = store.put(data, kind="mask", model="m" * 64, suffix="bin")
    store.commit(Commit(kind="mask", key=key, objects={"mask": ref}, provenance=provenance))
    return ref


def paths(store: Store, *folders: str) -> list[str]:
    return sorted(entry.path for folder in folders for entry in store.entries(folder))


def damage(store: Store, path: str, data: bytes | None) -> None:
    """Write other bytes, or with None nothing, where an object was: as bad disks do."""
    if data is None:
        store.remove([path])
    else:
        store._backend.replace(path, data)


# --- What every kind of store does --------------------------------------------------------------


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


# --- URIs ---------------------------------------------------------------------------------------


def test_an_unknown_kind_of_store_is_a_user_error() -> None:
    with pytest.raises(UserError, match="--store nosuch://x"):
        Store("nosuch://x")


def test_an_error_of_a_library_behind_fsspec_is_a_store_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> bytes:
        raise LookupError("403 no access for x://me:secret@host")

    monkeypatch.setattr(Lake, "cat_file", refuse)
    with pytest.raises(StoreError, match=r"lake://x: cannot read .*LookupError: '?403") as caught:
        Store("lake://x").find("mask", "k")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://key:secret@bucket/x",
        "s3://secret@bucket",
        "simplecache::s3://k:secret@b/x",
        "s3://key:sec/secret@bucket/x",
        "s3://key/sec:secret@bucket",
        "s3://key:secret/x",
        "s3://bucket/x?secret=secret",
    ],
)
def test_a_uri_with_credentials_is_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(UserError, match="holds credentials") as caught:
        Store(uri)
    assert uri not in str(caught.value)
    assert "secret" not in redacted(f"cannot read {uri}: refused")


@pytest.mark.parametrize(
    "text", ["memory://host:8020/a", "memory://bucket/a:b", "memory://bucket: refused, me@home"]
)
def test_ports_and_paths_are_no_credentials(text: str) -> None:
    assert redacted(text) == text


def test_a_folder_may_have_an_at_sign(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "me@home"))
    assert store.read(commit(store, b"data")) == b"data"


MISSPELT = [
    ("~nobody-has-this-name/x", "knows no home of that user"),
    ("", "--store is empty; give a folder, or s3://bucket/prefix"),
    ("  ", "--store is empty"),
    ("s3:/bucket/x", "write s3://bucket/x"),
    ("s3:bucket/x", "write s3://bucket/x"),
    ("S3://bucket/x", "write s3://bucket/x"),
    ("s3//bucket/x", "write s3://bucket/x"),
    ("s3:///bucket/x", "write s3://bucket/x"),
    ("s3:\\\\bucket\\x", "write s3://bucket/x"),
    (" s3://bucket/x", "write s3://bucket/x"),
    ("s3://bucket/x\n", "write s3://bucket/x"),
    ("gs:/bucket/x", "write gs://bucket/x"),
    ("s3://bucket/a/../x", "give the prefix without them"),
    ("s3://", "names no bucket; give a folder, or s3://bucket/prefix"),
    ("file:/tmp/x", "write /tmp/x"),
    ("memory://x", "is held by one process"),
    ("memory:x", "is held by one process"),
    ("https://bucket.s3.amazonaws.com/x", "can only be read; .* AWS_ENDPOINT_URL"),
    ("simplecache::s3://bucket/x", "a chain of file systems cannot be a store"),
    ("reference://x", "--store reference://x"),
    ("arn:aws:s3:::bucket/x", "the ARN of a bucket; write s3://bucket/x"),
    ("s3://arn:aws:s3:::bucket/x/*", "the ARN of a bucket; write s3://bucket/x$"),
    (
        "s3://arn:aws:s3:eu-west-1:123456789012:accesspoint/mine/x",
        "the ARN of an access point; give the alias .*-s3alias/",
    ),
    ("arn:aws:s3::123456789012:accesspoint/mine.mrap", "the ARN of an access point"),
    ("arn:aws-cn:s3-outposts:cn-north-1:123456789012:outpost/op-1", "this is an ARN"),
]


@pytest.mark.parametrize(("uri", "message"), MISSPELT)
def test_a_misspelt_uri_is_no_folders_name_and_its_right_spelling_is_given(
    uri: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        Store(uri)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "uri", ["s3:/key:secret@bucket/x", "S3://key:secret@bucket", " s3://key:secret@bucket/x"]
)
def test_a_misspelt_uri_with_credentials_is_not_repeated_either(uri: str) -> None:
    with pytest.raises(UserError, match="holds credentials") as caught:
        Store(uri)
    assert "secret@" not in str(caught.value)


@pytest.mark.parametrize("uri", ["s3", "data/x", "a:b", "./s3:/x", "file:///tmp/x", "s3a://b/x"])
def test_other_names_are_folders_and_buckets_as_ever(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Store(uri).uri == uri


# --- Local folders ------------------------------------------------------------------------------


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


# --- Parquet ------------------------------------------------------------------------------------

SCHEMA = pa.schema(
    [("name", pa.string()), ("sums", pa.list_(pa.float64()))],
    metadata={"conceptprune.format": "test/1", "conceptprune.sorted_by": "name"},
)


def table() -> pa.Table:
    rows = [{"name": f"layer {i % 7}", "sums": [i * 1.1, i / 3]} for i in range(500)]
    return pa.Table.from_pylist(sorted(rows, key=itemgetter("name")), schema=SCHEMA)


def test_a_table_comes_back_equal_and_makes_the_same_bytes() -> None:
    data = table_to_parquet(table())
    back = parquet_to_table(data)
    assert back.equals(table())
    assert back.schema.metadata == SCHEMA.metadata
    assert table_to_parquet(table()) == data


def test_a_table_declares_its_format() -> None:
    with pytest.raises(ValueError, match=r"lacks conceptprune\.format and conceptprune\.sorted_by"):
        table_to_parquet(table().replace_schema_metadata(None))
    sink = pa.BufferOutputStream()
    pq.write_table(table().replace_schema_metadata(None), sink)
    with pytest.raises(StoreError, match=r"does not declare conceptprune\.format"):
        parquet_to_table(sink.getvalue().to_pybytes())


def test_a_table_out_of_order_is_refused() -> None:
    with pytest.raises(ValueError, match="not sorted by name"):
        table_to_parquet(table().take([1, 499, 2]))


def test_a_table_whose_rows_are_not_those_that_were_written_is_told_by_its_digest() -> None:
    metadata = pq.read_schema(pa.BufferReader(table_to_parquet(table()))).metadata
    sink = pa.BufferOutputStream()
    pq.write_table(table().slice(1).replace_schema_metadata(metadata), sink)
    with pytest.raises(StoreError, match="damaged: its digest was"):
        parquet_to_table(sink.getvalue().to_pybytes())


def test_a_byte_flipped_in_any_page_is_found_by_its_checksum() -> None:
    data = table_to_parquet(table())
    metadata = pq.ParquetFile(pa.BufferReader(data)).metadata
    columns = [metadata.row_group(0).column(index) for index in range(metadata.num_columns)]
    # The last bytes of a column are the end of its last page, and no header.
    for column in columns:
        first = column.dictionary_page_offset or column.data_page_offset
        last = first + column.total_compressed_size - 1
        for place in range(last - 4, last + 1):
            flipped = bytearray(data)
            flipped[place] ^= 1
            with pytest.raises(StoreError, match="CRC checksum verification failed"):
                parquet_to_table(bytes(flipped))


@pytest.mark.parametrize("size", [0, 3, 100, -10])
def test_a_truncated_table_is_a_store_error(size: int) -> None:
    with pytest.raises(StoreError, match="a Parquet table is damaged"):
        parquet_to_table(table_to_parquet(table())[:size])
