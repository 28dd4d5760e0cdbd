"""What a worker answers when it was given a unit."""

import os
import platform
from dataclasses import dataclass

from conceptprune.store import Commit
from conceptprune.store.claims import Claim


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
