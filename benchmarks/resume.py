"""How long a rerun takes to know what is left to do, on a store with many committed units.

The store is in the state that a killed job leaves: the last units have a commit record but are
in no ledger, and some were not begun. Measured in a folder, and on a real S3 server on this
machine, where the number of requests counts: a bucket far away takes longer for each.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.collector import plan_of
from benchmarks.results import Measurement
from conceptprune.store import Commit, ObjectRef, Store
from conceptprune.units.plan import Plan
from conceptprune.units.unit import Unit
from pipelines.records.ledger import ledger_rows, reused_units, write_ledger
from pipelines.scheduling.graph import committed_in, units_to_do
from pipelines.scheduling.loop import Result
from tests.support.s3_faults import FaultProxy
from tests.support.s3_server import BUCKET, running_server, use_server

IN_FOLDER = 100_100
IN_S3 = 20_050
NOT_IN_LEDGER = 100
"""Committed after the last ledger was written."""
LISTED_AT_ONCE = 1000
"""S3's bound for a page of a listing."""

Write = Callable[[dict[str, bytes]], None]
"""Puts files under their paths into a store."""


def run() -> list[Measurement]:
    """100,000 units in a folder, 20,000 in S3."""
    return [*in_folder(IN_FOLDER, at_most=10), *in_s3(IN_S3)]


def run_minimal() -> list[Measurement]:
    """A few units in a folder, to see that it runs."""
    return in_folder(200, at_most=None)


def in_folder(units: int, *, at_most: float | None) -> list[Measurement]:
    """On a local disk."""
    with tempfile.TemporaryDirectory() as folder:

        def write(files: dict[str, bytes]) -> None:
            for path, data in files.items():
                target = Path(folder) / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)

        plan, number = _fill(folder, write, units)
        seconds, note = _scan(folder, plan, number)
    what = f"folder, {number:,} committed units: what is left is known after"
    return [Measurement(what=what, value=seconds, unit="s", at_most=at_most, note=note)]


def in_s3(units: int) -> list[Measurement]:
    """On a real server, with its requests counted."""
    context = pytest.MonkeyPatch.context()
    with running_server() as server, FaultProxy(server.port) as proxy, context as patch:
        use_server(patch, proxy.endpoint)
        uri = f"s3://{BUCKET}/resume"

        def write(files: dict[str, bytes]) -> None:
            objects = {f"{BUCKET}/resume/{path}": data for path, data in files.items()}
            server.client.pipe(objects, batch_size=32)

        plan, number = _fill(uri, write, units)
        proxy.requests.clear()
        seconds, note = _scan(uri, plan, number)
        requests = len(proxy.requests)
    what = f"S3, {number:,} committed units: what is left is known after"
    # A listing per kind and one of the runs, the ledger, and each record that is in no ledger.
    most = number // LISTED_AT_ONCE + NOT_IN_LEDGER + 10
    return [
        Measurement(what=what, value=seconds, unit="s", note=note),
        Measurement(
            what="S3: requests for it",
            value=requests,
            at_most=most,
            note=f"{NOT_IN_LEDGER} of them for records that are in no ledger",
        ),
    ]


def _fill(uri: str, write: Write, units: int) -> tuple[Plan, int]:
    """Fill a store with about `units` commit records; returns the plan and their exact number."""
    plan = plan_of(units)
    every = list(plan.units())
    hundredth = max(1, len(plan.concepts) // 100)
    unfinished = {concept.mask.key for concept in plan.concepts[-hundredth:]}
    commits = {unit.key: _commit(unit) for unit in every if unit.key not in unfinished}
    write({f"commits/{c.kind}/{c.key}.json": c.to_bytes() for c in commits.values()})
    in_ledger = [unit for unit in every if unit.key in commits][:-NOT_IN_LEDGER]
    results = {
        unit.key: Result(unit=unit, status="done", attempts=1, commit=commits[unit.key])
        for unit in in_ledger
    }
    todo = {unit.key for unit in every}
    store = Store(uri)
    write_ledger(store, plan.run, ledger_rows(plan, todo=todo, results=results, reused={}))
    return plan, len(commits)


def _commit(unit: Unit) -> Commit:
    ref = ObjectRef(
        path=f"objects/{unit.kind}/model={'0' * 12}/{unit.key}.bin", digest=unit.key, size=64
    )
    provenance = {"seconds": 0.25, "finished": time.time(), "worker": "host/1"}
    return Commit(kind=unit.kind, key=unit.key, objects={"slept": ref}, provenance=provenance)


def _scan(uri: str, plan: Plan, number: int) -> tuple[float, str]:
    """Do what a job does before its first unit; returns the seconds, and a note on the result."""
    started = time.perf_counter()
    committed = committed_in(Store(uri))
    todo = {unit.key for unit in units_to_do(plan, committed)}
    reused = reused_units(plan, Store(uri), todo, committed)
    seconds = time.perf_counter() - started
    left = sum(1 for _ in plan.units()) - number
    if len(reused) != number or len(todo) < left:
        raise RuntimeError(f"{len(reused)} reused and {len(todo)} left of {number} and {left}")
    return seconds, f"{len(todo)} units left; the plan itself was at hand"
