"""A store that keeps its connections open and says nothing: every operation ends all the same."""

import logging
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from tenacity import stop_never

from conceptprune.errors import StoreError
from conceptprune.store import ObjectRef, Store, access, s3
from tests.conceptprune.store.work import committed
from tests.support.s3_faults import Fault, FaultProxy, Request, first

pytestmark = pytest.mark.slow


def unknown(store: Store) -> ObjectRef:
    return ObjectRef(path="objects/mask/x", digest="0" * 64, size=1)


VERBS: dict[str, Callable[[Store], object]] = {
    "read": lambda store: store.find("mask", "k"),
    "read of an object": lambda store: store.read(unknown(store)),
    "look": lambda store: store._backend.stat("x"),
    "list": lambda store: store.committed("mask"),
    "list with sizes": lambda store: list(store.entries("objects")),
    "write": lambda store: store.write_run_file("r", "x", b"data"),
    "write of nothing": lambda store: store.write_run_file("r", "x", b""),
    "create": lambda store: store.create_claim("mask/k.json", b"{}"),
    "remove": lambda store: store.remove(["x"]),
    "remove many": lambda store: store.remove(["x", "y"]),
    "move": lambda store: store._backend.move("commits/mask/there.json", "damaged/x"),
    "write of many parts": lambda store: store.write_run_file("r", "x", bytes(6 * 2**20)),
    "check": lambda store: store.check(),
}


@pytest.fixture
def hasty(proxy: FaultProxy, uri: str, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store with something in it, that is given up soon; it has a connection already."""
    store = Store(uri)
    committed(store, b"data", key="there")
    monkeypatch.setattr(access, "SHORTEST_TRY", 0.1)
    monkeypatch.setattr(s3, "SHORTEST_TRY", 0.1)
    # Many bytes do not buy much more.
    monkeypatch.setattr(access, "SLOWEST", 100 * 2**20)
    monkeypatch.setattr(s3, "PART_BYTES", 5 * 2**20)
    monkeypatch.setattr(store, "_deadline", 0.2)
    store._backend.access = replace(store._backend.access, deadline=0.2)
    return store


ENDS_WITHIN = 25.0
"""Seconds: less than the sockets' own timeouts would make of it, and much for a busy machine."""


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_ends_after_the_deadline_in_a_store_that_never_answers(
    hasty: Store, proxy: FaultProxy, verb: str
) -> None:
    proxy.choose = lambda _: "silent"
    started = time.monotonic()
    with pytest.raises(StoreError, match="no answer within"):
        VERBS[verb](hasty)
    assert time.monotonic() - started < ENDS_WITHIN
    assert proxy.injected["silent"] >= 1


@pytest.mark.parametrize("fault", ["swallow", "stall", "dribble"])
def test_a_request_that_is_taken_and_an_answer_that_never_ends_are_given_up(
    hasty: Store, proxy: FaultProxy, fault: Fault
) -> None:
    proxy.choose = lambda _: fault
    started = time.monotonic()
    for verb in ("list", "write" if fault == "swallow" else "list with sizes"):
        with pytest.raises(StoreError, match="no answer within"):
            VERBS[verb](hasty)
    with pytest.raises(StoreError, match="no answer within"):
        hasty.get("mask", "there")
    assert time.monotonic() - started < 3 * ENDS_WITHIN


def is_put(part: str) -> Callable[[Request], bool]:
    return lambda request: request.method == "PUT" and part in request.path


@pytest.mark.parametrize(
    ("part", "fault"),
    [("/objects/", "silent"), ("/commits/", "swallow"), ("/claims/", "silent")],
)
def test_one_put_that_gets_no_answer_costs_a_try_and_nothing_else(
    proxy: FaultProxy, uri: str, monkeypatch: pytest.MonkeyPatch, part: str, fault: Fault
) -> None:
    monkeypatch.setattr(access, "SHORTEST_TRY", 1.0)
    monkeypatch.setattr(access, "LONGEST_TRY", 1.0)
    store = Store(uri)
    proxy.choose = first(1, fault, is_put(part))
    # A claim whose answer was lost is there; that it is one's own is seen by its job.
    store.create_claim("mask/k.json", b"{}")
    commit = committed(store, b"data")
    assert proxy.injected == {fault: 1}
    assert store.load(store.get("mask", "k"), "mask") == b"data"
    assert store.get("mask", "k") == commit
    assert store.read_claim("mask/k.json") == b"{}"


def test_a_lost_part_of_a_large_object_is_sent_again_alone(
    proxy: FaultProxy, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Far longer than a part takes on a busy machine, where another try of part 1 would be right.
    monkeypatch.setattr(access, "SHORTEST_TRY", 10.0)
    monkeypatch.setattr(access, "LONGEST_TRY", 10.0)
    monkeypatch.setattr(access, "SLOWEST", 100 * 2**20)
    monkeypatch.setattr(s3, "PART_BYTES", 5 * 2**20)
    store = Store(uri)
    proxy.choose = first(1, "silent", is_put("partNumber=2"))
    data = bytes(range(256)) * (12 * 2**20 // 256)
    commit = committed(store, data)
    assert proxy.injected == {"silent": 1}
    assert sum("partNumber=1" in request.path for request in proxy.requests) == 1
    assert store.load(commit, "mask") == data


@pytest.mark.parametrize(
    ("deadline", "size", "bounds"),
    [
        (0.0, 0, [10.0, 10.0, 10.0]),
        (12.0, 0, [10.0, 10.0, 10.0]),
        (36.0, 0, [12.0, 12.0, 12.0]),
        (75.0, 0, [25.0, 25.0, 25.0]),
        (300.0, 0, [30.0, 30.0, 30.0]),
        (300.0, 64 * 2**20, [94.0, 94.0, 94.0]),
    ],
)
def test_a_try_may_take_a_part_of_the_deadline_and_more_for_many_bytes(
    monkeypatch: pytest.MonkeyPatch, deadline: float, size: int, bounds: list[float]
) -> None:
    assert tried(monkeypatch, deadline, size, takes=0.0) == bounds


def test_the_last_try_ends_with_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tried(monkeypatch, 60.0, 0, takes=24.0) == [20.0, 20.0, 12.0]
    assert tried(monkeypatch, 60.0, 60 * 2**20, takes=50.0) == [80.0, 70.0, 20.0]
    # The least that a try gets, also where the deadline is near.
    assert tried(monkeypatch, 60.0, 0, takes=29.0) == [20.0, 20.0, 10.0]


def tried(
    monkeypatch: pytest.MonkeyPatch, deadline: float, size: int, *, takes: float
) -> list[float]:
    """The bounds of three tries, each of which takes so many seconds by a clock of its own."""
    given: list[float] = []

    def attempt(seconds: float) -> None:
        given.append(seconds)
        if len(given) == 3:
            raise OSError("enough")
        raise TimeoutError

    one = access.Access(uri="s3://b/p", deadline=deadline)
    with monkeypatch.context() as patched:
        patched.setattr(access, "perf_counter", lambda: takes * len(given))
        patched.setattr(access, "FIRST_WAIT", 0.0)
        patched.setattr(access, "stop_before_delay", lambda _: stop_never)
        with pytest.raises(StoreError, match="enough"):
            one.within("write x", attempt, size=size)
    return given


def test_a_store_that_is_silent_for_a_while_is_not_waited_for_in_silence(
    proxy: FaultProxy,
    uri: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(access, "SHORTEST_TRY", 1.0)
    monkeypatch.setattr(access, "LONGEST_TRY", 1.0)
    monkeypatch.setattr(access, "LONGEST_WAIT", 0.2)
    monkeypatch.setattr(access, "SILENCE", 0.5)
    caplog.set_level(logging.WARNING)
    proxy.choose = first(1, "silent", is_put("/runs/"))
    Store(uri).write_run_file("r", "x", b"data")
    ours = [r.getMessage() for r in caplog.records if r.name.startswith("conceptprune")]
    (message, *_) = ours
    assert message.startswith(f"{uri}: write runs/run=r/x failed for ")
    assert "trying again: no answer within" in message
