"""For every file of a run: reporting that it is damaged, and when the run was first started."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

from conceptprune.errors import StoreError
from conceptprune.store import Store


@contextmanager
def told_if_damaged(store: Store, run: str, name: str) -> Iterator[None]:
    """Turn errors of parsing a run's file into a `StoreError` that names it."""
    try:
        yield
    except (StoreError, ValueError, LookupError, TypeError) as error:
        raise StoreError(
            f"{store.uri}: runs/run={run}/{name} is damaged ({error}); run its job again, which "
            f"rewrites it, or `conceptprune gc --forget {run}`"
        ) from error


def first_started(store: Store, run: str, name: str, started: float) -> float:
    """When a run was first started: as an earlier job recorded it, otherwise `started`."""
    data = store.read_run_file(run, name)
    try:
        earlier = json.loads(data or b"{}")
        return float(earlier.get("first_started") or earlier["started"])
    except (ValueError, LookupError, TypeError, AttributeError):
        return started
