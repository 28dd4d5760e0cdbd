"""How a worker does a unit: it claims it, makes its objects, and commits a record of them."""

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
    """A unit that is committed; `computed` where it was not before."""

    commit: Commit
    computed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A unit that another job is computing."""

    claim: Claim


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """The objects of a unit, by role, and numbers worth showing without reading them."""

    objects: Mapping[str, ObjectRef]
    facts: Mapping[str, Any] = field(default_factory=dict)


class UnitWorker(ABC):
    """Does units on one store; what the objects of each kind are is for a subclass to say."""

    def __init__(self, store: Store, claims: Claims | None = None) -> None:
        """A worker on `store`, which does not claim its units where nobody else does any."""
        self.store = store
        self.claims = claims

    @abstractmethod
    def make(self, unit: Unit) -> Made:
        """Compute a unit and write its objects, from those of the units that it needs."""

    def run_claimed(self, unit: Unit) -> Done | Held:
        """Make and commit one unit, unless it is done or another job is computing it.

        Raises:
            UserError, NumericalError, StoreError: see what makes the unit, and `Store.commit`.
        """
        claim = self.claims.held(unit.kind, unit.key) if self.claims else nullcontext()
        with claim as other:
            if other is not None:
                return Held(claim=other)
            # Looked for under the claim: whoever held it before may have finished.
            found = find_commit(self.store, unit.kind, unit.key)
            if found is not None:
                return Done(commit=found, computed=False)
            started = time.perf_counter()
            made = self.make(unit)
            commit = Commit(
                kind=unit.kind,
                key=unit.key,
                objects=made.objects,
                provenance={**made.facts, **_how_made(time.perf_counter() - started)},
            )
            self.store.commit(commit)
            return Done(commit=commit, computed=True)

    def run(self, unit: Unit) -> Commit:
        """The same for a worker without claims: the unit's commit record, made if need be."""
        outcome = self.run_claimed(unit)
        if isinstance(outcome, Held):
            raise ValueError(f"{unit.kind} {unit.key} is held by another job")
        return outcome.commit


def worker_name() -> str:
    """Host and process of this worker, as records have it."""
    return f"{platform.node()}/{os.getpid()}"


def _how_made(seconds: float) -> dict[str, Any]:
    """Provenance of what this process has just made."""
    # Here, because a driver that only hands units out does without it.
    import torch

    return {
        "seconds": round(seconds, 3),
        "finished": round(time.time(), 3),
        "worker": worker_name(),
        "threads": torch.get_num_threads(),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "versions": versions(),
    }
