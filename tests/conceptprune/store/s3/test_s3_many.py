"""More objects than S3 lists, or removes, at once."""

import time
from io import StringIO

import pytest
from rich.console import Console

from conceptprune.store import Store
from pipelines.commands.gc import collect_garbage
from tests.support.s3_faults import FaultProxy, first
from tests.support.s3_server import SeaweedServer

pytestmark = pytest.mark.slow

KEYS = {f"{index:064x}" for index in range(1002)}


@pytest.fixture
def many(store: Store, proxy: FaultProxy, server: SeaweedServer) -> Store:
    """A store with empty files for records: reading one would say that it is damaged."""
    folder = store.uri.removeprefix("s3://") + "/commits/window"
    server.client.pipe({f"{folder}/{key}.json": b"" for key in KEYS}, batch_size=32)
    proxy.requests.clear()
    return store


def test_finished_work_is_listed_by_the_page_and_garbage_removed_by_the_thousand(
    many: Store, proxy: FaultProxy
) -> None:
    proxy.choose = first(2, "503", lambda request: "continuation-token" in request.path)
    assert many.committed("window") == KEYS
    # Two pages, and the second one three times: not the listing from its beginning.
    assert len(proxy.requests) == 4

    sink = StringIO()
    later = time.time() + 2 * 86_400
    collect_garbage(many.uri, Console(file=sink, width=200), now=later)
    assert "could be removed: 1,002 files, 0 bytes; kept" in sink.getvalue()
    assert {request.method for request in proxy.requests} == {"GET"}

    proxy.choose = first(2, "503", lambda request: "?delete" in request.path)
    collect_garbage(many.uri, Console(file=sink, width=200), yes=True, now=later)
    assert many.committed("window") == frozenset()
    # Two batches, of which the first was refused twice.
    assert proxy.count("POST") == 4
