"""Claims: one job at a time computes a unit, no longer than it lives, and never for ever."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from conceptprune import progress
from conceptprune.store import Store
from conceptprune.store import claims as module
from conceptprune.store.claims import Claim, Claims, claims_by_age, live_claims, remove_lapsed
from conceptprune.store.files import LocalFiles


@dataclass
class Clock:
    """A monotonic clock that only the test moves."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def claims(store: Store, job: str, seconds: float = 30.0) -> Claims:
    return Claims(store, job=job, worker=f"host/{job}", seconds=seconds)


def test_what_one_job_is_at_another_one_is_told_of(store: Store) -> None:
    with claims(store, "a").held("window", "k") as first:
        assert first is None
        with claims(store, "b").held("window", "k") as second:
            assert second is not None
            assert (second.job, second.worker) == ("a", "host/a")
        # Being told of a claim does not end it.
        assert [claim.job for claim in live_claims(store)] == ["a"]


def test_a_store_that_ignores_conditions_still_tells_of_what_another_job_is_at(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overwrite(files: LocalFiles, path: str, data: bytes, *, durable: bool = True) -> bool:
        files.replace(path, data, durable=durable)
        return True

    monkeypatch.setattr(LocalFiles, "create", overwrite)
    assert not store.check()
    with claims(store, "a").held("window", "k") as first:
        assert first is None
        second = Claims(store, job="b", worker="host/b", conditional=store.conditional)
        with second.held("window", "k") as other:
            assert other is not None
            assert other.job == "a"
        assert [claim.job for claim in live_claims(store)] == ["a"]


def test_a_claim_ends_with_the_work_also_when_it_fails(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), claims(store, "a").held("window", "k"):
        raise ZeroDivisionError
    assert live_claims(store) == []
    with claims(store, "b").held("window", "k") as other:
        assert other is None


def test_a_claim_is_renewed_for_as_long_as_the_work_takes(store: Store) -> None:
    with claims(store, "a", seconds=0.3).held("window", "k"):
        time.sleep(1)
        with claims(store, "b").held("window", "k") as other:
            assert other is not None


AHEAD, RIGHT, BEHIND = 3600.0, 0.0, -7200.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "monotonic", clock)
    return clock


@pytest.mark.parametrize("offset", [AHEAD, RIGHT, BEHIND])
def test_the_claim_of_a_worker_that_died_lapses_whatever_its_clock_was(
    store: Store, clock: Clock, caplog: pytest.LogCaptureFixture, offset: float
) -> None:
    store.create_claim("window/k.json", _claim_of(claims(store, "a"), expires=now() + offset))
    watcher = claims(store, "b")
    # Two looks do not make it dead, however far apart its time and this machine's are.
    assert held_by(watcher) == "a"
    clock.now += 29.0
    assert held_by(watcher) == "a"
    assert not caplog.messages
    clock.now += 2.0
    assert held_by(watcher) is None
    assert "window k: job a on host/a has not renewed its claim for 30 s" in caplog.text


@pytest.mark.parametrize("offset", [AHEAD, RIGHT, BEHIND])
def test_a_claim_that_is_renewed_while_one_looks_is_alive_whatever_its_clock(
    store: Store, clock: Clock, offset: float
) -> None:
    watcher = claims(store, "b")
    for renewal in range(9):
        expires = now() + offset + 10 * renewal
        store.write_claim("window/k.json", _claim_of(claims(store, "a"), expires=expires))
        assert held_by(watcher) == "a"
        clock.now += 10.0
        assert held_by(watcher) == "a"


@pytest.mark.parametrize(("its_own", "the_watchers"), [(3.0, 600.0), (600.0, 3.0), (3e7, 3.0)])
def test_a_claim_binds_no_longer_than_its_own_lifetime_nor_than_the_watchers(
    store: Store,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    its_own: float,
    the_watchers: float,
) -> None:
    owner = claims(store, "a", seconds=its_own)
    store.create_claim("window/k.json", _claim_of(owner, expires=now(), seconds=its_own))
    watcher = claims(store, "b", seconds=the_watchers)
    assert held_by(watcher) == "a"
    clock.now += 2.0
    assert held_by(watcher) == "a"
    clock.now += 2.0
    assert held_by(watcher) is None
    assert "has not renewed its claim for 3 s" in caplog.text


def test_a_new_claim_in_the_place_of_an_old_one_is_watched_anew(store: Store, clock: Clock) -> None:
    watcher = claims(store, "b")
    store.create_claim("window/k.json", _claim_of(claims(store, "a"), expires=now()))
    assert held_by(watcher) == "a"
    clock.now += 31.0
    store.write_claim("window/k.json", _claim_of(claims(store, "c"), expires=now()))
    assert held_by(watcher) == "c"
    assert held_by(watcher) == "c"


def test_a_lapsed_claim_is_removed_unless_it_was_renewed_meanwhile(store: Store) -> None:
    store.create_claim("window/k.json", _claim_of(claims(store, "a"), expires=1.0))
    seen = _read(store)
    assert seen is not None
    store.write_claim("window/k.json", _claim_of(claims(store, "a"), expires=2.0))
    remove_lapsed(store, seen, 30.0)
    assert store.read_claim("window/k.json") is not None
    renewed = _read(store)
    assert renewed is not None
    remove_lapsed(store, renewed, 30.0)
    assert store.read_claim("window/k.json") is None


def test_a_worker_whose_unit_makes_no_progress_stops_renewing(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "STUCK_SECONDS", 0.3)
    with claims(store, "a", seconds=0.3).held("window", "k"):
        wait_for(lambda: "no progress with window k" in caplog.text)
        last = store.read_claim("window/k.json")
        time.sleep(0.5)
        assert store.read_claim("window/k.json") == last
        watcher = claims(store, "b", seconds=0.3)
        wait_for(lambda: held_by(watcher) is None)


def test_who_made_the_claims_is_told_of_a_unit_that_is_stuck(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STUCK_SECONDS", 0.1)
    told: list[str] = []
    mine = Claims(store, job="a", worker="w", seconds=0.1, on_stuck=lambda: told.append("stuck"))
    with mine.held("window", "k"):
        wait_for(lambda: bool(told))
    assert told == ["stuck"]


def test_a_worker_whose_unit_makes_progress_renews_for_as_long_as_it_takes(
    store: Store, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with claims(store, "a", seconds=0.06).held("window", "k"):
        for _ in range(8):
            # Each step of the unit takes most of the time after which it would count as stuck.
            progress.made()
            clock.now += 0.8 * module.STUCK_SECONDS
            last = store.read_claim("window/k.json")
            wait_for(lambda last=last: store.read_claim("window/k.json") != last)  # type: ignore[misc]
    assert not caplog.messages


def test_the_renewal_of_a_claim_is_no_progress_of_its_unit(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "STUCK_SECONDS", 0.5)
    with claims(store, "a", seconds=0.15).held("window", "k"):
        # Nothing here reads or writes the store: only the renewals do.
        wait_for(lambda: "no progress with window k" in caplog.text)


def test_claims_shown_are_those_that_were_renewed_lately(store: Store) -> None:
    for key, expires in (("ahead", now() + 3600), ("behind", now() - 3600)):
        store.create_claim(f"window/{key}.json", _claim_of(claims(store, "a"), expires, key=key))
    assert sorted(claim.key for claim in live_claims(store)) == ["ahead", "behind"]
    for entry in store.claims():
        os.utime(Path(store.uri) / entry.path, (now() - 60, now() - 60))
    assert live_claims(store) == []


def test_what_a_later_version_adds_to_a_claim_does_not_make_it_none() -> None:
    content = json.loads(_claim_of_job("a", expires=1.0))
    later = Claim.from_bytes(json.dumps({**content, "colour": "red"}).encode(), "window/k.json")
    assert later is not None
    assert later.job == "a"
    del content["seconds"]
    earlier = Claim.from_bytes(json.dumps(content).encode(), "window/k.json")
    assert earlier is not None
    assert earlier.seconds == module.CLAIM_SECONDS


def test_a_job_takes_over_what_its_own_dead_worker_claimed(store: Store) -> None:
    store.create_claim("window/k.json", _claim_of(claims(store, "a"), expires=time.time() + 99))
    with claims(store, "a").held("window", "k") as other:
        assert other is None


WHOLE = {"kind": "window", "key": "k", "job": "a", "worker": "w", "since": 0, "expires": 1}


def with_(**fields: object) -> bytes:
    return json.dumps({**WHOLE, **fields}).encode()


@pytest.mark.parametrize(
    "data",
    [
        b'{"kind": "half a cl',
        b"",
        b"[]",
        b"null",
        b"[" * 100_000,
        b"\xff\xfe",
        with_(seconds="x"),
        with_(seconds=None),
        with_(seconds=True),
        with_(seconds=float("nan")),
        with_(seconds=float("inf")),
        with_(seconds=0),
        with_(seconds=-1),
        with_(seconds=1e300),
        with_(seconds=10**400),
        with_(since=float("nan")),
        with_(since=10**400),
        with_(since=[]),
        with_(expires=float("inf")),
        with_(expires=1e200),
        with_(key=["k"]),
        with_(key="another"),
        with_(kind=1),
        with_(job=None),
        with_(job={"a": 1}),
        with_(worker=7),
        with_(worker="\ud800"),
        with_(worker="two\nlines"),
    ],
)
def test_what_is_no_claim_binds_nobody(store: Store, data: bytes) -> None:
    store.create_claim("window/k.json", data)
    store.create_claim("window/other.json", with_(key="other"))
    # Nor does it keep others from being shown.
    assert [claim.key for claim, _ in claims_by_age(store)] == ["other"]
    assert held_by(claims(store, "b")) is None


def test_a_claim_of_whole_numbers_is_one(store: Store) -> None:
    store.create_claim("window/k.json", with_(seconds=30))
    assert held_by(claims(store, "b")) == "a"


def _read(store: Store) -> Claim | None:
    return Claim.from_bytes(store.read_claim("window/k.json") or b"", "window/k.json")


def held_by(watcher: Claims) -> str | None:
    """The job that has the unit; None where the watcher got it (and let it go again)."""
    with watcher.held("window", "k") as other:
        return None if other is None else other.job


def now() -> float:
    return time.time()


def wait_for(event: Callable[[], bool], seconds: float = 60.0) -> None:
    until = time.time() + seconds
    while not event():
        assert time.time() < until, "it did not happen"
        time.sleep(0.05)


def _claim_of(
    owner: Claims, expires: float, *, key: str = "k", seconds: float = module.CLAIM_SECONDS
) -> bytes:
    return _claim_of_job(owner.job, expires=expires, key=key, seconds=seconds)


def _claim_of_job(
    job: str, *, expires: float, key: str = "k", seconds: float = module.CLAIM_SECONDS
) -> bytes:
    return Claim(
        kind="window",
        key=key,
        job=job,
        worker=f"host/{job}",
        since=expires - seconds,
        expires=expires,
        seconds=seconds,
    ).to_bytes()
