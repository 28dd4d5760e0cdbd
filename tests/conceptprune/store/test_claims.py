"""Claims: one job at a time computes a unit, no longer than it lives, and never for ever."""

import time
from pathlib import Path

import pytest

from conceptprune.store import Store
from conceptprune.store.claims import Claim, Claims, live_claims
from conceptprune.store.files import LocalFiles


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


def test_the_claim_of_a_worker_that_died_expires(store: Store) -> None:
    dead = claims(store, "a", seconds=0.2)
    assert dead.store.create_claim("window/k.json", _claim_of(dead, expires=time.time() - 1))
    assert live_claims(store) == []
    with claims(store, "b").held("window", "k") as other:
        assert other is None
        assert [claim.job for claim in live_claims(store)] == ["b"]


def test_a_job_takes_over_what_its_own_dead_worker_claimed(store: Store) -> None:
    store.create_claim("window/k.json", _claim_of(claims(store, "a"), expires=time.time() + 99))
    with claims(store, "a").held("window", "k") as other:
        assert other is None


def test_what_is_no_claim_binds_nobody(store: Store) -> None:
    store.create_claim("window/k.json", b'{"kind": "half a cl')
    with claims(store, "b").held("window", "k") as other:
        assert other is None


def _claim_of(owner: Claims, *, expires: float) -> bytes:
    return Claim(
        kind="window", key="k", job=owner.job, worker=owner.worker, since=0.0, expires=expires
    ).to_bytes()
