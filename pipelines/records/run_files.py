"""For every file of a run: reporting that it is damaged, and when the run was first started."""

from collections.abc import Iterator
from contextlib import contextmanager

from conceptprune.errors import StoreError
from conceptprune.store import Commit, Store

from .fields import json_object, time_field

DAMAGED = (
    StoreError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    NotImplementedError,
    RecursionError,
)
"""What reading a file may raise that is not what this version writes."""


@contextmanager
def told_if_damaged(store: Store, run: str, name: str) -> Iterator[None]:
    """Turn errors of parsing a run's file into a `StoreError` that names it."""
    try:
        yield
    except DAMAGED as error:
        raise StoreError(
            f"{store.uri}: runs/run={run}/{name} is damaged ({error}); run its job again, which "
            f"rewrites it, or `conceptprune gc --forget {run}`"
        ) from error


@contextmanager
def told_if_strange(store: Store, commit: Commit) -> Iterator[None]:
    """Turn errors of reading a unit's record and objects into a `StoreError` that names it."""
    try:
        yield
    except StoreError:
        raise
    except DAMAGED as error:
        raise StoreError(
            f"{store.uri}: commits/{commit.kind}/{commit.key}.json or an object that it names is "
            f"not what this version writes ({type(error).__name__}: {error})"
        ) from error


def first_started(store: Store, run: str, name: str, started: float) -> float:
    """When a run was first started: as an earlier job recorded it, otherwise `started`."""
    data = store.read_run_file(run, name)
    try:
        earlier = json_object(data or b"{}")
    except ValueError:
        return started
    return time_field(earlier, "first_started", 0.0) or time_field(earlier, "started", started)
