"""Fixtures: a real S3 server, and a fault-injecting proxy in front of it."""

from collections.abc import Iterator
from uuid import uuid4

import pytest

from conceptprune.store import Store
from tests.support.s3_faults import FaultProxy
from tests.support.s3_server import BUCKET, SeaweedServer, running_server, use_server


@pytest.fixture(scope="session")
def server() -> Iterator[SeaweedServer]:
    """One for all tests, each with a prefix of its own; one that kills it starts it again."""
    with running_server() as running:
        yield running


@pytest.fixture
def uri() -> str:
    """A prefix of its own for each test."""
    return f"s3://{BUCKET}/{uuid4().hex[:8]}"


@pytest.fixture
def proxy(server: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """The way to the server that the environment points at; it lets everything through at first."""
    with FaultProxy(server.port) as running:
        use_server(monkeypatch, running.endpoint)
        yield running


@pytest.fixture
def store(proxy: FaultProxy, uri: str) -> Store:
    return Store(uri)
