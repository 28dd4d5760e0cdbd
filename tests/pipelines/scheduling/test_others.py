"""How a driver waits for other jobs: for no claim longer than its own job gives claims."""

from pathlib import Path

import pytest

from conceptprune.store import Store
from conceptprune.store import claims as module
from conceptprune.store.claims import Claim
from pipelines.scheduling.others import OtherJobs


def test_the_driver_removes_a_claim_that_says_it_lives_longer_than_it_gives_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(module, "monotonic", lambda: now)
    store = Store(str(tmp_path / "store"))
    claim = Claim(kind="mask", key="k", job="a", worker="w", since=0.0, expires=3e7, seconds=3e7)
    store.create_claim(claim.path, claim.to_bytes())
    driver = OtherJobs(store, claim_seconds=5.0)
    driver.held(claim)
    now += 4.0
    with driver:
        driver.held(claim)
    assert store.read_claim(claim.path) is not None
    driver = OtherJobs(store, claim_seconds=5.0)
    driver.held(claim)
    now += 6.0
    driver.held(claim)
    driver._remover.shutdown(wait=True)
    assert store.read_claim(claim.path) is None
