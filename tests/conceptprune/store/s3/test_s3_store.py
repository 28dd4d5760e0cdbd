"""The store on a real S3 server, behind a network that fails: nothing is lost, nothing is wrong."""

import logging
import multiprocessing
import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conceptprune.errors import StoreError, UserError
from conceptprune.store import Commit, LostUnitError, Store, access, s3
from tests.support.certificates import Certificate
from tests.support.s3_faults import Fault, FaultProxy, Request, first, share
from tests.support.s3_server import (
    ACCESS_KEY,
    BUCKET,
    READER,
    SECRET_KEY,
    SeaweedServer,
    use_server,
)

pytestmark = pytest.mark.slow


def committed(store: Store, data: bytes, key: str = "k", kind: str = "mask") -> Commit:
    ref = store.put(data, kind=kind, model="m" * 64, suffix="bin")
    commit = Commit(kind=kind, key=key, objects={"mask": ref}, provenance={})
    store.commit(commit)
    return commit


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


def test_a_deadline_that_is_no_number_is_a_user_error(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text in ("soon", "nan", "-1", "inf"):
        monkeypatch.setenv("CONCEPTPRUNE_STORE_DEADLINE", text)
        with pytest.raises(UserError, match=f"CONCEPTPRUNE_STORE_DEADLINE={text}"):
            Store(uri)


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


# --- Stores that cannot be used -----------------------------------------------------------------


def missing_bucket(server: SeaweedServer, patch: pytest.MonkeyPatch) -> str:
    use_server(patch, server.endpoint)
    return "s3://no-such-bucket/x"


def forbidden(server: SeaweedServer, patch: pytest.MonkeyPatch) -> str:
    use_server(patch, server.endpoint, READER)
    return f"s3://{BUCKET}/x"


def wrong_secret(server: SeaweedServer, patch: pytest.MonkeyPatch) -> str:
    use_server(patch, server.endpoint, (ACCESS_KEY, SECRET_KEY + "x"))
    return f"s3://{BUCKET}/x"


def no_credentials(server: SeaweedServer, patch: pytest.MonkeyPatch) -> str:
    use_server(patch, server.endpoint)
    patch.delenv("AWS_ACCESS_KEY_ID")
    patch.delenv("AWS_SECRET_ACCESS_KEY")
    return f"s3://{BUCKET}/x"


def unreachable(server: SeaweedServer, patch: pytest.MonkeyPatch) -> str:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        use_server(patch, f"http://127.0.0.1:{unused.getsockname()[1]}")
    patch.setenv("CONCEPTPRUNE_STORE_DEADLINE", "0.5")
    return f"s3://{BUCKET}/x"


def keys_in_endpoint(server: SeaweedServer, patch: pytest.MonkeyPatch) -> str:
    use_server(patch, f"http://{ACCESS_KEY}:{SECRET_KEY}@127.0.0.1:{server.port}")
    patch.setenv("CONCEPTPRUNE_STORE_DEADLINE", "0.5")
    return f"s3://{BUCKET}/x"


def no_endpoint(server: SeaweedServer, patch: pytest.MonkeyPatch) -> str:
    use_server(patch, "nowhere")
    return f"s3://{BUCKET}/x"


@pytest.mark.parametrize(
    ("setup", "reason"),
    [
        (missing_bucket, "404 NoSuchBucket"),
        (forbidden, "403 AccessDenied"),
        (wrong_secret, "403 SignatureDoesNotMatch"),
        (no_credentials, "Unable to locate credentials"),
        (unreachable, "Could not connect"),
        (keys_in_endpoint, "credentials encoded in URL"),
        (no_endpoint, "Invalid endpoint: nowhere"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_store_that_cannot_be_used_fails_the_check_with_one_clear_message(
    server: SeaweedServer,
    monkeypatch: pytest.MonkeyPatch,
    setup: Callable[[SeaweedServer, pytest.MonkeyPatch], str],
    reason: str,
) -> None:
    uri = setup(server, monkeypatch)
    with pytest.raises(StoreError) as caught:
        Store(uri).check()
    message = str(caught.value)
    assert message.startswith(f"{uri}: cannot write probe/")
    assert reason in message
    assert SECRET_KEY not in message
    assert ACCESS_KEY not in message


def test_a_missing_bucket_is_no_empty_store(
    server: SeaweedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(missing_bucket(server, monkeypatch))
    with pytest.raises(StoreError, match="NoSuchBucket"):
        store.committed("mask")
    with pytest.raises(StoreError, match="NoSuchBucket"):
        store.find("mask", "k")


# --- Servers that are not AWS ---------------------------------------------------------------------


def wants_md5(request: Request) -> Fault | None:
    return "400" if "?delete" in request.path and "content-md5" not in request.headers else None


def knows_no_bulk_delete(request: Request) -> Fault | None:
    return "501" if "?delete" in request.path else None


@pytest.mark.parametrize("refuse", [wants_md5, knows_no_bulk_delete])
def test_where_many_cannot_be_removed_at_once_they_are_removed_one_by_one(
    store: Store, proxy: FaultProxy, refuse: Callable[[Request], Fault | None]
) -> None:
    for key in "abc":
        store.create_claim(f"mask/{key}.json", b"{}")
    proxy.choose = refuse
    store.remove([entry.path for entry in store.claims()] + ["claims/mask/none.json"])
    assert list(store.claims()) == []
    assert proxy.count("DELETE") == 4
    # It is not asked again.
    store.remove(["claims/mask/x.json", "claims/mask/y.json"])
    assert sum(proxy.injected.values()) == 1


def test_what_a_record_names_stays_where_the_record_cannot_be_removed(
    store: Store, proxy: FaultProxy
) -> None:
    commits = [committed(store, key.encode(), key=key) for key in "ab"]
    records = [f"commits/mask/{commit.key}.json" for commit in commits]
    objects = [commit.objects["mask"].path for commit in commits]
    proxy.choose = lambda request: (
        "411" if request.path.endswith("/b.json") else knows_no_bulk_delete(request)
    )
    with pytest.raises(StoreError, match=r"cannot remove commits/mask/b\.json"):
        store.remove([*records, *objects])
    assert sorted(entry.path for entry in store.entries("objects")) == sorted(objects)


def test_objects_that_one_request_for_many_did_not_remove_are_removed_by_their_own(
    store: Store, proxy: FaultProxy, server: SeaweedServer
) -> None:
    """A server that carries out a part of a request says what it did not do, with status 200."""
    for key in "abc":
        store.create_claim(f"mask/{key}.json", b"{}")
    errors = "".join(
        f"<Error><Key>{store.uri.removeprefix(f's3://{BUCKET}/')}/claims/mask/{key}.json</Key>"
        f"<Code>InternalError</Code></Error>"
        for key in "abc"
    )
    proxy.instead = lambda request: (
        f"<DeleteResult>{errors}</DeleteResult>" if "?delete" in request.path else None
    )
    store.remove([entry.path for entry in store.claims()])
    assert list(store.claims()) == []


def test_an_object_that_may_not_be_removed_is_an_error_that_names_it(
    store: Store, server: SeaweedServer, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed(store, b"data", key="1")
    committed(store, b"other", key="2")
    use_server(monkeypatch, server.endpoint, READER)
    reader = Store(uri)
    for paths in (["commits/mask/1.json"], ["commits/mask/1.json", "commits/mask/2.json"]):
        with pytest.raises(StoreError, match=r"cannot remove commits/mask/\d\.json: .*403"):
            reader.remove(paths)
    assert store.committed("mask") == {"1", "2"}


def knows_no_trailers(request: Request) -> Fault | None:
    return "411" if "x-amz-trailer" in request.headers else None


def test_over_https_no_checksum_trails_a_body_unless_it_is_asked_for(
    server: SeaweedServer, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = Certificate.make(tmp_path)
    with FaultProxy(server.port, certificate) as proxy:
        use_server(monkeypatch, proxy.endpoint)
        with pytest.raises(StoreError, match=r"CERTIFICATE_VERIFY_FAILED.*AWS_CA_BUNDLE"):
            Store(uri).check()
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate.authority))
        proxy.choose = knows_no_trailers
        store = Store(uri)
        assert store.check()
        commit = committed(store, b"data")
        assert store.load(store.get("mask", "k"), "mask") == b"data"
        assert store.get("mask", "k") == commit
        store.write_run_file("r", "ledger", b"run")
        assert store.read_run_file("r", "ledger") == b"run"
        store._backend.replace(commit.objects["mask"].path, b"dbta")
        with pytest.raises(LostUnitError, match="damaged"):
            store.load(commit, "mask")
        assert sorted(entry.path for entry in store.entries("damaged")) == [
            "damaged/commits/mask/k.json",
            f"damaged/{commit.objects['mask'].path}",
        ]
        committed(store, b"data")
        store.remove(["commits/mask/k.json", "commits/mask/l.json"])
        assert store.committed("mask") == frozenset()
        # Without one, botocore signs a digest of the body: it is not sent unprotected.
        puts = [request for request in proxy.requests if request.method == "PUT"]
        assert all(len(request.headers["x-amz-content-sha256"]) == 64 for request in puts)
        assert not proxy.injected

        monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_supported")
        with pytest.raises(StoreError, match="411 MissingContentLength"):
            Store(uri).check()


@pytest.mark.parametrize("prefix", ["x", "a//b", "a\\b", "/b"])
def test_a_prefix_that_the_server_does_not_list_is_refused_by_the_check(
    store: Store, proxy: FaultProxy, prefix: str
) -> None:
    proxy.instead = lambda request: (
        "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"
        if "list-type=2" in request.path
        else None
    )
    uri = f"{store.uri}/{prefix}"
    with pytest.raises(StoreError, match="a listing of probe lacks it") as refused:
        Store(uri).check()
    hint = "not every server takes a prefix with // or \\"
    assert (hint in str(refused.value)) == (prefix != "x")
    proxy.instead = lambda request: None
    assert list(store.entries(f"{prefix}/probe")) == []


@pytest.mark.parametrize("prefix", ["a//b", "a\\b", "/a", "a b", "ä", "a+b", "a%2Fb", "a=b"])
def test_a_prefix_is_taken_as_it_is_or_refused_by_the_check(store: Store, prefix: str) -> None:
    odd = Store(f"{store.uri}/{prefix}")
    try:
        odd.check()
    except StoreError:
        assert "//" in f"/{prefix}" or "\\" in prefix
        return
    commit = committed(odd, b"data")
    odd.create_claim("mask/k.json", b"{}")
    odd.create_claim("mask/l.json", b"{}")
    assert odd.committed("mask") == {"k"}
    assert odd.load(odd.get("mask", "k"), "mask") == b"data"
    odd.remove([entry.path for entry in odd.claims()])
    assert list(odd.claims()) == []
    assert [entry.path for entry in odd.entries("objects")] == [commit.objects["mask"].path]


def test_a_store_that_removes_nothing_is_used_with_a_warning(
    store: Store, proxy: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    proxy.choose = lambda request: "501" if request.method == "DELETE" else None
    assert store.check()
    assert "claims stay until they expire" in caplog.text


# --- Processes and credentials ------------------------------------------------------------------


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


def test_credentials_show_in_no_representation_message_log_or_object(
    store: Store,
    proxy: FaultProxy,
    server: SeaweedServer,
    uri: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    proxy.choose = share(30, ["503", "drop"], seed=1)
    store.check()
    commit = committed(store, b"data")
    store.write_run_file("r1", "run.json", b"{}")
    server.client.pipe_file(f"{uri}/{commit.objects['mask'].path}", b"dat")
    shown = [repr(store), str(store), repr(pickle.dumps(store)), repr(vars(store))]
    with pytest.raises(LostUnitError) as lost:
        store.load(commit, "mask")
    shown.append(repr(lost.value))
    for setup in (wrong_secret, forbidden, unreachable, keys_in_endpoint):
        opened = Store(setup(server, monkeypatch))
        with pytest.raises(StoreError) as failed:
            opened.check()
        shown += [repr(failed.value), repr(pickle.dumps(failed.value)), repr(opened)]
    shown.append(caplog.text)
    assert "trying again" in caplog.text
    client = server.client
    shown += [repr((path, client.cat_file(path))) for path in client.find(uri)]
    for text in shown:
        for secret in (ACCESS_KEY, SECRET_KEY, *READER):
            assert secret not in text


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


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"AWS_PROFILE": "nobody-s"}, r"nobody-s.*; give AWS_PROFILE a name"),
        ({"AWS_ENDPOINT_URL": "127.0.0.1:9000"}, r"127\.0\.0\.1:9000; give AWS_ENDPOINT_URL as"),
        ({"AWS_SECRET_ACCESS_KEY": None}, "AWS_SECRET_ACCESS_KEY both, or neither"),
        (
            {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None},
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or",
        ),
    ],
)
def test_settings_that_s3_cannot_be_asked_with_are_named_with_the_fix(
    server: SeaweedServer,
    uri: str,
    variables: dict[str, str | None],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_server(monkeypatch, server.endpoint)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name, value in variables.items():
        monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    with pytest.raises(StoreError, match=told):
        Store(uri).check()


def test_https_asked_of_a_server_without_it_is_not_tried_again(
    server: SeaweedServer, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_server(monkeypatch, server.endpoint.replace("http:", "https:"))
    with pytest.raises(StoreError, match="write http:// in AWS_ENDPOINT_URL") as refused:
        Store(uri).check()
    assert "tried for" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("AWS_CA_BUNDLE", "/nowhere.pem", "AWS_CA_BUNDLE=/nowhere.pem: cannot be read; name a"),
        (
            "AWS_REQUEST_CHECKSUM_CALCULATION",
            "never",
            "AWS_REQUEST_CHECKSUM_CALCULATION=never: give when_required or when_supported",
        ),
    ],
)
def test_variables_with_unusable_values_are_refused_before_any_request(
    name: str, value: str, told: str, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=told):
        Store(uri)
