"""A synthetic collector: everything a job does on a cluster, but its units only sleep.

The plan, the scheduling, the actors, the claims, the objects, the commit records and the ledger are
the real ones. No torch, so that dozens of workers find room on one machine.
"""

import os
import resource
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from conceptprune.manifest import Compute, Manifest
from conceptprune.manifest.model_settings import ModelSettings
from conceptprune.prompts.pairs import prompt_pairs
from conceptprune.store import Store
from conceptprune.store.claims import Claims
from conceptprune.units.commit import Made, UnitWorker, worker_name
from conceptprune.units.plan import Plan, build_plan
from conceptprune.units.unit import Unit
from pipelines.records.journal import Journal, new_job
from pipelines.scheduling.loop import Result, Tick, run_units
from pipelines.scheduling.workers import WorkerPool

RAYLETS = 4
CPUS_OF_A_RAYLET = 8
CPUS_OF_AN_ACTOR = 0.2
"""Logical CPUs. Ray fills a raylet to half before it goes on to the next, so 64 actors are spread
over all four, and tasks find some free CPUs on each."""
OBJECT_STORE_BYTES = 100_000_000
SHARES = (0.25, 0.5, 1.0)
"""Shares of the units done at which the driver's memory is measured."""
MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SleepingSpec:
    """A runner whose units take a fixed time and no processor."""

    store: str
    job: str
    seconds: float

    @property
    def run_id(self) -> str:
        """A placeholder: the units belong to no run."""
        return "benchmark"

    def build(self) -> "SleepingWorker":
        """A worker in this process."""
        store = Store(self.store)
        claims = Claims(store, job=self.job, worker=worker_name())
        return SleepingWorker(store, claims, self.seconds)


class SleepingWorker(UnitWorker):
    """Sleeps, and writes a small object."""

    def __init__(self, store: Store, claims: Claims, seconds: float) -> None:
        super().__init__(store, claims)
        self.seconds = seconds

    def make(self, unit: Unit) -> Made:
        """Sleep, whatever the unit is."""
        time.sleep(self.seconds)
        slept = time.time()
        ref = self.store.put(unit.key.encode(), kind=unit.kind, model="0" * 64, suffix="bin")
        return Made(objects={"slept": ref}, facts={"slept": slept})


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What was measured with one number of workers."""

    workers: int
    units: int
    tasks: int
    """Reductions and masks among the units, which are not done by actors."""
    actors_by_node: tuple[int, ...]
    starting: float
    """Seconds until every actor was up."""
    wall: float
    """Seconds from then to the last unit that actors do."""
    tail: float
    """Seconds from then to the last reduction and mask."""
    efficiency: float
    """Share of `wall` that the actors slept in units."""
    overhead: float
    """Driver's processor time per unit in milliseconds, over all its threads."""
    memory: tuple[float, ...]
    """Driver's resident MiB at each of `SHARES`."""
    ledger: float
    """Share of the time that the driver's loop spent on the ledger."""
    ledger_seconds: float
    """Seconds to make and write one ledger."""
    load: float
    """The machine's load (runnable processes) just before."""


def plan_of(units: int) -> Plan:
    """The real plan of an erase job of about `units` units: 40 windows per side, no outputs."""
    concepts = max(1, round((units - 41) / 42))
    manifest = Manifest.model_validate(
        {
            "version": 1,
            "model": {"hub": "org/name", "revision": "0" * 40},
            "concepts": [{"name": f"artist {n}", "kind": "style"} for n in range(concepts)],
            "collection": {"shard_prompts": 1, "window": 5},
        },
        context={"folder": "/"},
    )
    model = ModelSettings(
        source=manifest.model,
        identity="0" * 64,
        pipeline="StableDiffusionPipeline",
        dtype="float16",
        device="cpu",
    )
    seed = manifest.collection.seed
    pairs = {concept.name: prompt_pairs(concept, seed=seed) for concept in manifest.concepts}
    return build_plan(manifest, model, pairs)


@dataclass(slots=True)
class _Watch:
    """What is measured while the units run."""

    pool: WorkerPool
    journal: Journal
    workers: int
    units: int
    begun: float
    last_actor: float = 0.0
    last_window: float = 0.0
    in_ledger: float = 0.0
    finished: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    nodes: Counter[str] = field(default_factory=Counter)

    def on_result(self, result: Result) -> None:
        if result.status != "done" or result.commit is None:
            raise RuntimeError(f"{result.unit.kind}: {result.status}: {result.error}")
        self.journal.results[result.unit.key] = result
        if result.unit.warm:
            self.last_window = time.time()
            self.finished.append(result.commit.provenance["slept"])
        while len(self.journal.results) >= SHARES[len(self.memory)] * self.units:
            self.memory.append(resident_mib())
            if len(self.memory) == len(SHARES):
                break

    def on_tick(self, tick: Tick) -> None:
        started = time.perf_counter()
        self.journal.on_tick(tick)
        self.in_ledger += time.perf_counter() - started
        up = [slot.node for slot in self.pool.slots if slot.node is not None]
        if not self.nodes and len(up) == self.workers:
            self.last_actor = time.time()
            self.nodes.update(up)

    def slept(self, seconds: float) -> float:
        """Seconds that units slept since the last actor came up, all actors together."""
        return sum(min(seconds, max(0.0, at - self.last_actor)) for at in self.finished)


def measure(uri: str, *, workers: int, units: int, seconds: float, raylets: int) -> Point:
    """Run about `units` units on `workers` actors; call it in a process of its own."""
    load = os.getloadavg()[0]
    plan = plan_of(units)
    todo = list(plan.units())
    known = plan.by_key
    job = new_job()
    journal = Journal(Store(uri), plan, job, todo=known.keys(), reused={})
    compute = Compute(actors=workers, cpus_per_actor=CPUS_OF_AN_ACTOR)
    with _cluster(raylets):
        started = time.perf_counter()
        journal.begin()
        ledger_seconds = time.perf_counter() - started
        pool = WorkerPool(SleepingSpec(store=uri, job=job, seconds=seconds), compute)
        watch = _Watch(pool, journal, workers, len(todo), begun=time.time())
        processor = time.process_time()
        run_units(
            todo,
            pool,
            known=known,
            max_attempts=1,
            on_result=watch.on_result,
            on_tick=watch.on_tick,
        )
        whole = time.time() - watch.begun
        processor = time.process_time() - processor
        pool.close()
    journal.end("done")
    if not watch.nodes:
        raise RuntimeError("the units were done before all actors were up: take more units")
    wall = watch.last_window - watch.last_actor
    return Point(
        workers=workers,
        units=len(todo),
        tasks=sum(not unit.warm for unit in todo),
        actors_by_node=tuple(sorted(watch.nodes.values(), reverse=True)),
        starting=watch.last_actor - watch.begun,
        wall=wall,
        tail=whole - (watch.last_window - watch.begun),
        efficiency=watch.slept(seconds) / (workers * wall),
        overhead=1000 * processor / len(todo),
        memory=tuple(watch.memory),
        ledger=watch.in_ledger / whole,
        ledger_seconds=ledger_seconds,
        load=load,
    )


def resident_mib() -> float:
    """Resident memory of this process, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / MIB


@contextmanager
def _cluster(raylets: int) -> Iterator[None]:
    node = {"num_cpus": CPUS_OF_A_RAYLET, "object_store_memory": OBJECT_STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        for _ in range(raylets - 1):
            cluster.add_node(**node)
        ray.init(address=cluster.address, log_to_driver=False)
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()
