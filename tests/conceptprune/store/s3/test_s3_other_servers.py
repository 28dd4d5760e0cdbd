"""Servers that do not do all that AWS does, and ways to them that it does not need."""

from collections.abc import Callable
from pathlib import Path

import pytest

from conceptprune.errors import StoreError
from conceptprune.store import LostUnitError, Store
from tests.conceptprune.store.work import committed
from tests.support.certificates import Certificate
from tests.support.s3_faults import Fault, FaultProxy, Request
from tests.support.s3_server import BUCKET, READER, SeaweedServer, use_server

pytestmark = pytest.mark.slow


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
