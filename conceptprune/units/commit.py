"""How a worker does a unit: claim it, make its objects, and commit a record of them."""

import os
import platform
import resource
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from conceptprune.store import Commit, ObjectRef, Store
from conceptprune.store.claims import Claim, Claims
from conceptprune.units.find import find_commit
from conceptprune.units.unit import Unit
from conceptprune.versions import versions


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A committed unit; `computed` is true if it was not committed before."""

    commit: Commit
    computed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A unit that another job is computing."""

    claim: Claim


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """The objects of a unit by role, and numbers worth showing without reading the objects."""

    objects: Mapping[str, ObjectRef]
    facts: Mapping[str, Any] = field(default_factory=dict)


class UnitWorker(ABC):
    """Does units on one store; subclasses make the objects of each kind."""

    def __init__(self, store: Store, claims: Claims | None = None) -> None:
        """A worker on `store`; without claims if no other job uses the store."""
        self.store = store
        self.claims = claims

    @abstractmethod
    def make(self, unit: Unit) -> Made:
        """Compute a unit from the objects of the units it needs, and write its objects."""

    def run_claimed(self, unit: Unit) -> Done | Held:
        """Make and commit one unit, unless it is done already or another job is computing it.

        Raises:
            UserError, NumericalError, StoreError: see what makes the unit, and `Store.commit`.
        """
        claim = self.claims.held(unit.kind, unit.key) if self.claims else nullcontext()
        with claim as other:
            if other is not None:
                return Held(claim=other)
            # Checked under the claim: its previous holder may have finished the unit.
            found = find_commit(self.store, unit.kind, unit.key)
            if found is not None:
                return Done(commit=found, computed=False)
            started = time.perf_counter()
            made = self.make(unit)
            commit = Commit(
                kind=unit.kind,
                key=unit.key,
                objects=made.objects,
                provenance={
                    **made.facts,
                    **_how_made(time.perf_counter() - started),
                    # A job that is killed does not come to record what it made.
                    "job": self.claims.job if self.claims else None,
                },
            )
            self.store.commit(commit)
            return Done(commit=commit, computed=True)

    def run(self, unit: Unit) -> Commit:
        """The same for a worker without claims; returns the unit's commit record."""
        outcome = self.run_claimed(unit)
        if isinstance(outcome, Held):
            raise ValueError(f"{unit.kind} {unit.key} is held by another job")
        return outcome.commit


def worker_name() -> str:
    """Host and process of this worker, as written in records."""
    return f"{platform.node()}/{os.getpid()}"


def _how_made(seconds: float) -> dict[str, Any]:
    """Provenance of objects that this process has just made."""
    # Imported here because a driver that only hands out units does not need it.
    import torch

    return {
        "seconds": round(seconds, 3),
        "finished": round(time.time(), 3),
        "worker": worker_name(),
        "threads": torch.get_num_threads(),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "versions": versions(),
    }
