"""Events: a chain that concurrent jobs extend, and in which no change goes unnoticed."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from conceptprune.errors import StoreError
from conceptprune.store import Store
from conceptprune.store.events import Event, check_events, record_event
from conceptprune.store.files import LocalFiles


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = Store(str(tmp_path / "store"))
    for number in range(4):
        record_event(found, "exported", {"n": number})
    return found


def file_of(store: Store, number: int) -> Path:
    return Path(store.uri) / "events" / f"{number:010}.json"


def test_events_are_read_in_the_order_in_which_they_were_put_on_record(store: Store) -> None:
    chain = check_events(store)
    assert chain.problem is None
    assert [(event.number, event.details["n"]) for event in chain.events] == [
        (1, 0),
        (2, 1),
        (3, 2),
        (4, 3),
    ]
    assert [event.before for event in chain.events] == ["", *chain.digests[:-1]]


def test_a_store_without_events_is_whole(tmp_path: Path) -> None:
    assert check_events(Store(str(tmp_path))).events == ()


def test_jobs_that_put_events_on_record_at_once_lose_none(tmp_path: Path) -> None:
    uri = str(tmp_path / "store")

    def job(name: int) -> None:
        for number in range(5):
            record_event(Store(uri), "job-ended", {"of": [name, number]})

    with ThreadPoolExecutor(4) as jobs:
        list(jobs.map(job, range(4)))
    chain = check_events(Store(uri))
    assert chain.problem is None
    assert sorted(event.details["of"] for event in chain.events) == [
        [name, number] for name in range(4) for number in range(5)
    ]


def test_an_event_that_another_one_wrote_over_is_put_on_record_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store without conditional puts tells both of two writers that they were first."""
    create = LocalFiles.create
    others: list[bytes] = []

    def overwritten(files: LocalFiles, path: str, data: bytes, *, durable: bool = True) -> bool:
        created = create(files, path, data, durable=durable)
        if not others:
            others.append(replace(Event.from_bytes(data), who="another").to_bytes())
            files.replace(path, others[0])
        return created

    monkeypatch.setattr(LocalFiles, "create", overwritten)
    event = record_event(store, "exported", {"n": 4})
    chain = check_events(store)
    assert (event.number, chain.problem) == (6, None)
    assert [found.who == "another" for found in chain.events[4:]] == [True, False]


def test_a_changed_event_is_found_by_its_own_digest(store: Store) -> None:
    path = file_of(store, 2)
    path.write_bytes(path.read_bytes().replace(b'"n":1', b'"n":7'))
    chain = check_events(store)
    assert chain.problem == "event 2 was changed, or cut short"
    assert len(chain.events) == 1


def test_an_event_that_was_made_anew_is_found_by_the_one_after_it(store: Store) -> None:
    path = file_of(store, 2)
    path.write_bytes(replace(Event.from_bytes(path.read_bytes()), who="nobody").to_bytes())
    assert check_events(store).problem == "event 3 does not follow on event 2 as it is now"


def test_an_event_that_was_taken_away_is_missing(store: Store) -> None:
    file_of(store, 3).unlink()
    assert check_events(store).problem == "event 3 is missing, but there is an event 4"


@pytest.mark.parametrize("number", [0, 6, 9_999_999_999])
def test_an_event_with_a_gap_before_it_is_a_break_and_ends_the_chain_for_nobody(
    store: Store, number: int
) -> None:
    file_of(store, number).write_bytes(file_of(store, 4).read_bytes())
    assert record_event(store, "exported", {}).number == 5
    chain = check_events(store)
    assert chain.problem
    assert len(chain.digests) <= 5
    if number > 9:
        assert record_event(store, "exported", {}).number == 6
        found = check_events(store)
        assert len(found.events) == 6
        assert found.problem == f"event 7 is missing, but there is an event {number}"


def test_an_event_under_a_name_that_is_none_is_a_break_and_ends_the_chain_for_nobody(
    store: Store,
) -> None:
    name = "\N{ARABIC-INDIC DIGIT NINE}" * 10 + ".json"
    file_of(store, 1).with_name(name).write_bytes(file_of(store, 4).read_bytes())
    assert record_event(store, "exported", {}).number == 5
    chain = check_events(store)
    assert len(chain.events) == 5
    assert chain.problem == f"events/{name} is not the name of an event"


def test_an_event_under_another_number_is_found(store: Store) -> None:
    file_of(store, 5).write_bytes(file_of(store, 4).read_bytes())
    assert check_events(store).problem == "event 5 says that it is event 4"


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{", b"[" * 100_000, b'{"format":"other/1"}', b'{"at":NaN}']
)
def test_what_is_no_event_breaks_the_chain_and_nothing_else(store: Store, data: bytes) -> None:
    file_of(store, 4).write_bytes(data)
    problem = check_events(store).problem
    assert problem
    assert problem.startswith("event 4 is ")
    assert record_event(store, "exported", {}).number == 5


def test_a_store_that_cannot_be_written_says_so(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalFiles, "create", lambda *_, **__: False)
    with pytest.raises(StoreError, match="could not be put on record"):
        record_event(store, "exported", {})
