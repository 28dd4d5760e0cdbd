"""How a worker does a unit under a claim, and what it answers."""

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from conceptprune.store import Commit
from conceptprune.store.claims import Claim, Claims
from conceptprune.work import Unit

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


def run_claimed(work: U, claims: Claims, do: Callable[[U], Commit]) -> Done | Held:
    """Have `do` compute and commit one unit, unless another job is at it or it is done."""
    with claims.held(work.kind, work.key) as other:
        if other is not None:
            return Held(claim=other)
        # Looked for under the claim: whoever held it before may have finished.
        found = claims.store.find(work.kind, work.key)
        if found is not None:
            return Done(commit=found, computed=False)
        return Done(commit=do(work), computed=True)
