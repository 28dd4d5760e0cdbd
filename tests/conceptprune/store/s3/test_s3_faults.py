"""A real S3 server behind a network that fails: nothing is lost, nothing is wrong."""

import multiprocessing
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from conceptprune.errors import StoreError
from conceptprune.store import Commit, LostUnitError, Store, access, s3
from tests.conceptprune.store.work import committed
from tests.support.s3_faults import Fault, FaultProxy, Request, first, share
from tests.support.s3_server import BUCKET, READER, SeaweedServer, use_server

pytestmark = pytest.mark.slow


def is_record(request: Request) -> bool:
    return request.method == "PUT" and "/commits/" in request.path


def is_read_of_object(request: Request) -> bool:
    return request.method == "GET" and "/objects/" in request.path


# --- Conditional puts ---------------------------------------------------------------------------


def test_a_record_is_put_under_the_condition_that_there_is_none(
    store: Store, proxy: FaultProxy
) -> None:
    committed(store, b"data")
    assert [request.conditional for request in proxy.requests if is_record(request)] == [True]


def test_of_two_workers_with_equal_results_both_succeed_and_the_first_record_stays(
    store: Store,
) -> None:
    ref = store.put(b"data", kind="mask", model="m", suffix="bin")
    commits = [
        Commit(kind="mask", key="k", objects={"mask": ref}, provenance={"worker": worker})
        for worker in range(8)
    ]
    with ThreadPoolExecutor(8) as workers:
        list(workers.map(store.commit, commits))
    assert store.get("mask", "k") in commits


def test_of_two_workers_with_other_results_one_is_told_both_digests_and_the_unit(
    store: Store,
) -> None:
    refs = [
        store.put(data, kind="mask", model="m", suffix="bin") for data in (b"one", b"two", b"three")
    ]
    told = []

    def commit(ref: Any) -> None:
        try:
            store.commit(Commit(kind="mask", key="k", objects={"mask": ref}, provenance={}))
        except StoreError as error:
            told.append((ref, str(error)))

    with ThreadPoolExecutor(3) as workers:
        list(workers.map(commit, refs))
    assert len(told) == 2
    kept = store.get("mask", "k").objects["mask"]
    for ref, message in told:
        assert "mask k is not deterministic" in message
        assert kept.digest in message
        assert ref.digest in message


def test_a_record_whose_answer_was_lost_is_found_to_be_its_own(
    store: Store, proxy: FaultProxy
) -> None:
    proxy.choose = first(1, "lose", is_record)
    commit = committed(store, b"data")
    assert proxy.injected == {"lose": 1}
    assert sum(map(is_record, proxy.requests)) == 2
    assert store.get("mask", "k") == commit


def test_a_record_that_cannot_be_read_after_its_answer_was_lost_is_written_again(
    store: Store, proxy: FaultProxy
) -> None:
    faults: list[Fault] = []

    def choose(request: Request) -> Fault | None:
        if is_record(request) and not faults:
            faults.append("lose")
        elif request.method == "GET" and "/commits/" in request.path and 0 < len(faults) < 3:
            faults.append("flip")
        else:
            return None
        return faults[-1]

    proxy.choose = choose
    commit = committed(store, b"data")
    assert faults == ["lose", "flip", "flip"]
    assert store.get("mask", "k") == commit


@pytest.mark.parametrize("fault", ["409", "503", "drop"])
def test_a_conflict_a_busy_store_or_a_dropped_connection_is_tried_again(
    store: Store, proxy: FaultProxy, fault: Fault
) -> None:
    proxy.choose = first(2, fault, is_record)
    commit = committed(store, b"data")
    assert proxy.injected == {fault: 2}
    assert store.get("mask", "k") == commit


@pytest.mark.parametrize("fault", ["ignore-condition", "501"])
def test_a_store_without_conditional_puts_is_told_apart_and_used_all_the_same(
    store: Store, proxy: FaultProxy, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    proxy.choose = lambda request: fault if request.conditional else None
    assert not store.check()
    assert "does not honour conditional puts" in caplog.text
    commit = committed(store, b"data")
    committed(store, b"data")
    with pytest.raises(StoreError, match="not deterministic"):
        committed(store, b"other")
    assert store.get("mask", "k") == commit


# --- Faults -------------------------------------------------------------------------------------


def test_every_fifth_request_failing_costs_time_and_nothing_else(
    store: Store, proxy: FaultProxy
) -> None:
    proxy.choose = share(20, ["503", "drop", "lose", "truncate", "flip"], seed=7)
    contents = {f"{index:03}": f"result {index}".encode() * 100 for index in range(40)}

    def unit(item: tuple[str, bytes]) -> None:
        committed(store, item[1], key=item[0])

    with ThreadPoolExecutor(8) as workers:
        list(workers.map(unit, contents.items()))
    assert store.committed("mask") == contents.keys()
    for key, data in contents.items():
        assert store.load(store.get("mask", key), "mask") == data
    assert sum(proxy.injected.values()) > 30
    assert set(proxy.injected) == {"503", "drop", "lose", "truncate", "flip"}


def test_a_store_that_keeps_failing_is_given_up_with_what_it_said(
    proxy: FaultProxy, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONCEPTPRUNE_STORE_DEADLINE", "1.5")
    store = Store(uri)
    store.check()
    proxy.requests.clear()
    proxy.choose = lambda request: "503"
    with pytest.raises(StoreError) as caught:
        committed(store, b"data")
    for part in (uri, "cannot look for objects/mask", "S3 answered 503", "tried for 1.5 s"):
        assert part in str(caught.value)
    assert len(proxy.requests) > 1


def test_a_server_that_is_killed_and_restarted_costs_time_and_nothing_else(
    server: SeaweedServer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "LONGEST_WAIT", 0.5)
    keys = [f"{index:02}" for index in range(12)]
    begun = threading.Event()

    def unit(key: str) -> None:
        if key == keys[4]:
            begun.set()
        time.sleep(0.02)
        committed(store, key.encode(), key=key)

    with ThreadPoolExecutor(2) as workers:
        done = workers.map(unit, keys)
        begun.wait()
        server.kill()
        server.start()
        list(done)
    assert store.committed("mask") == set(keys)
    assert {store.load(store.get("mask", key), "mask").decode() for key in keys} == set(keys)


# --- Large objects ------------------------------------------------------------------------------


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> int:
    """Parts as small as S3 allows."""
    monkeypatch.setattr(s3, "PART_BYTES", 5 * 2**20)
    return 5 * 2**20


def uploads(server: SeaweedServer) -> list[Any]:
    answer = server.client.call_s3("list_multipart_uploads", Bucket=BUCKET)
    return list(answer.get("Uploads", ()))


def test_a_large_object_arrives_whole_though_parts_and_answers_are_lost(
    store: Store, proxy: FaultProxy, server: SeaweedServer, small_parts: int
) -> None:
    kinds: Iterator[tuple[str, Fault]] = iter(
        [("?uploads", "503"), ("partNumber=2", "drop"), ("partNumber=3", "503")]
    )
    wanted = dict(kinds) | {"?uploadId": "lose"}

    def choose(request: Request) -> Fault | None:
        for part in wanted:
            if part in request.path and request.method in ("PUT", "POST"):
                return wanted.pop(part)
        return None

    proxy.choose = choose
    data = bytes(range(256)) * (12 * 2**20 // 256)
    commit = committed(store, data)
    assert not wanted
    assert store.load(commit, "mask") == data
    assert not uploads(server)


def test_a_large_object_that_is_given_up_leaves_no_parts_behind(
    store: Store, proxy: FaultProxy, server: SeaweedServer, small_parts: int
) -> None:
    # It has a connection, so that only what fails is hurried.
    assert store.runs() == []
    store._backend.access = replace(store._backend.access, deadline=0.5)
    proxy.choose = lambda request: "503" if "partNumber=2" in request.path else None
    with pytest.raises(StoreError, match="cannot write objects/mask"):
        committed(store, bytes(6 * 2**20))
    assert not uploads(server)


def test_an_object_that_is_there_is_not_sent_again(store: Store, proxy: FaultProxy) -> None:
    committed(store, b"data", key="1")
    committed(store, b"data", key="2")
    assert sum("/objects/" in request.path for request in proxy.requests) == 3
    assert proxy.count("PUT") == 3


def test_an_object_that_has_been_there_for_long_is_renewed(
    store: Store, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = committed(store, b"data", key="1")
    now = time.time()
    monkeypatch.setattr("conceptprune.store.store.time.time", lambda: now + 7200)
    assert committed(store, b"data", key="2").objects == commit.objects
    assert proxy.count("PUT") == 4


# --- Damage -------------------------------------------------------------------------------------


def test_damage_on_the_way_is_no_damage_in_the_store(store: Store, proxy: FaultProxy) -> None:
    commit = committed(store, b"data")
    proxy.choose = first(1, "flip", lambda request: request.method == "GET")
    assert store.get("mask", "k") == commit
    proxy.choose = first(1, "flip", is_read_of_object)
    assert store.load(commit, "mask") == b"data"
    assert proxy.injected == {"flip": 2}
    assert store.committed("mask") == {"k"}


def test_damage_is_reported_where_the_reader_may_not_move_it(
    store: Store, server: SeaweedServer, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = committed(store, b"data")
    server.client.pipe_file(f"{uri}/{commit.objects['mask'].path}", b"dat")
    use_server(monkeypatch, server.endpoint, READER)
    with pytest.raises(LostUnitError, match=r"damaged.*still in its place.*403"):
        Store(uri).load(commit, "mask")


# --- Listings -----------------------------------------------------------------------------------


def test_a_write_is_seen_by_the_next_listing_of_another_process(store: Store, uri: str) -> None:
    other = Store(uri)
    assert other.committed("mask") == frozenset()
    committed(store, b"data")
    assert other.committed("mask") == {"k"}
    assert other.runs() == []
    store.write_run_file("r1", "run.json", b"{}")
    assert other.runs() == ["r1"]


# --- Sizes ---------------------------------------------------------------------------------------


def test_of_an_object_that_grew_no_more_is_read_than_its_record_says(
    store: Store, uri: str, proxy: FaultProxy
) -> None:
    ref = committed(store, b"data").objects["mask"]
    files = store._backend._fs  # type: ignore[attr-defined]
    for there, told in ((bytes(2**20), "5 of 4 bytes"), (b"", "0 of 4 bytes")):
        files.pipe_file(f"{uri.removeprefix('s3://')}/{ref.path}", there)
        with pytest.raises(StoreError, match=f"is damaged: {told}"):
            store.read(ref)


def test_a_record_that_would_fill_the_memory_is_refused_within_little_of_it(
    store: Store, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "most_bytes", lambda path: 100)
    files = store._backend._fs  # type: ignore[attr-defined]
    for size in (100, 101, 2**20):
        files.pipe_file(f"{uri.removeprefix('s3://')}/runs/run=r/run.json", bytes(size))
        if size == 100:
            assert store.read_run_file("r", "run.json") == bytes(100)
        else:
            with pytest.raises(StoreError, match="larger than 100 bytes"):
                store.read_run_file("r", "run.json")


# --- Processes -----------------------------------------------------------------------------------


def _read_in(store: Store, commit: Commit, answers: Any) -> None:
    answers.put(store.load(commit, "mask"))


def test_a_store_works_in_a_forked_process(store: Store) -> None:
    commit = committed(store, b"data")
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    process = context.Process(target=_read_in, args=(store, commit, answers))
    process.start()
    try:
        assert answers.get(timeout=60) == b"data"
    finally:
        process.join(timeout=10)
        process.kill()
