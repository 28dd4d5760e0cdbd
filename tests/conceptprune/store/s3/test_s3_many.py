"""More objects than S3 lists, or removes, at once: ten here, to be quick, and not a thousand."""

import time
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from conceptprune.store import Store, s3
from pipelines.commands.gc import collect_garbage
from tests.support.s3_faults import FaultProxy, first
from tests.support.s3_server import SeaweedServer

pytestmark = pytest.mark.slow

AT_ONCE = 10
KEYS = {f"{index:064x}" for index in range(AT_ONCE + 2)}


@pytest.fixture
def many(
    store: Store, proxy: FaultProxy, server: SeaweedServer, monkeypatch: pytest.MonkeyPatch
) -> Store:
    """A store with empty files for records: reading one would say that it is damaged."""
    request = s3.S3Objects._request

    def in_small_pages(files: s3.S3Objects, verb: str, seconds: float, **fields: Any) -> Any:
        if verb == "list_objects_v2":
            fields["MaxKeys"] = AT_ONCE
        return request(files, verb, seconds, **fields)

    monkeypatch.setattr(s3.S3Objects, "_request", in_small_pages)
    monkeypatch.setattr(s3, "REMOVED_AT_ONCE", AT_ONCE)
    folder = store.uri.removeprefix("s3://") + "/commits/window"
    server.client.pipe({f"{folder}/{key}.json": b"" for key in KEYS}, batch_size=32)
    proxy.requests.clear()
    return store


def test_finished_work_is_listed_by_the_page_and_garbage_removed_by_the_batch(
    many: Store, proxy: FaultProxy
) -> None:
    proxy.choose = first(2, "503", lambda request: "continuation-token" in request.path)
    assert many.committed("window") == KEYS
    # Two pages, and the second one three times: not the listing from its beginning.
    assert len(proxy.requests) == 4

    sink = StringIO()
    later = time.time() + 2 * 86_400
    collect_garbage(many.uri, Console(file=sink, width=200), now=later)
    assert "could be removed: 12 files, 0 bytes; kept" in sink.getvalue()
    assert {request.method for request in proxy.requests} == {"GET"}

    proxy.choose = first(2, "503", lambda request: "?delete" in request.path)
    collect_garbage(many.uri, Console(file=sink, width=200), yes=True, now=later)
    assert many.committed("window") == frozenset()
    # Two batches, of which the first was refused twice.
    assert proxy.count("POST") == 4
