"""How a worker does a unit under a claim, and the commit record that says what it made."""

import os
import platform
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from conceptprune.store import Commit, ObjectRef, Store
from conceptprune.store.claims import Claim, Claims
from conceptprune.units.units import Unit
from conceptprune.versions import versions

U = TypeVar("U", bound=Unit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A unit that is committed; `computed` where it was not before."""

    commit: Commit
    computed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A unit that another job is computing."""

    claim: Claim


def worker_name() -> str:
    """Host and process of this worker, as records have it."""
    return f"{platform.node()}/{os.getpid()}"


def run_claimed(unit: U, claims: Claims, do: Callable[[U], Commit]) -> Done | Held:
    """Have `do` compute and commit one unit, unless another job is at it or it is done."""
    with claims.held(unit.kind, unit.key) as other:
        if other is not None:
            return Held(claim=other)
        # Looked for under the claim: whoever held it before may have finished.
        found = claims.store.find(unit.kind, unit.key)
        if found is not None:
            return Done(commit=found, computed=False)
        return Done(commit=do(unit), computed=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What a stage wrote, and numbers worth showing without reading it."""

    objects: Mapping[str, ObjectRef]
    facts: Mapping[str, Any] = field(default_factory=dict)


def commit_made(store: Store, unit: Unit, make: Callable[[], Made]) -> Commit:
    """Make a unit's objects and commit them, with how long it took and by what.

    Raises:
        StoreError: see `Store.commit`.
    """
    # Here, because a driver that only hands units out does without it.
    import torch

    started = time.perf_counter()
    made = make()
    commit = Commit(
        kind=unit.kind,
        key=unit.key,
        objects=made.objects,
        provenance={
            **made.facts,
            "seconds": round(time.perf_counter() - started, 3),
            "finished": round(time.time(), 3),
            "worker": worker_name(),
            "threads": torch.get_num_threads(),
            "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "versions": versions(),
        },
    )
    store.commit(commit)
    return commit
