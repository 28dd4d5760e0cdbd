"""What a unit of work made, and the commit record that says so."""

import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from conceptprune.outcome import worker_name
from conceptprune.store import Commit, ObjectRef, Store
from conceptprune.versions import versions
from conceptprune.work import Unit


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What a stage wrote, and numbers worth showing without reading it."""

    objects: Mapping[str, ObjectRef]
    facts: Mapping[str, Any] = field(default_factory=dict)


def commit_made(store: Store, work: Unit, make: Callable[[], Made]) -> Commit:
    """Make a unit's objects and commit them, with how long it took and by what.

    Raises:
        StoreError: see `Store.commit`.
    """
    started = time.perf_counter()
    made = make()
    commit = Commit(
        kind=work.kind,
        key=work.key,
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
