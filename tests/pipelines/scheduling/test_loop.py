"""The driver's loop: what counts as an attempt, what is done again, and what is not.

On real Ray where a process or a machine has a part in it; else in this process.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from conceptprune.collection.window import Window
from conceptprune.manifest import Collection, Compute
from conceptprune.store import Commit, Store
from conceptprune.store import claims as claims_module
from conceptprune.store.claims import Claim, Claims
from conceptprune.units.commit import Done, Held, Made, UnitWorker
from conceptprune.units.unit import Need, Unit
from conceptprune.units.units import WindowUnit
from pipelines.scheduling.cluster import draining_nodes, is_up
from pipelines.scheduling.here import HerePool
from pipelines.scheduling.loop import OnHeld, Result, Tick, run_units
from pipelines.scheduling.others import OtherJobs
from pipelines.scheduling.workers import WorkerPool, end_process


@dataclass(frozen=True)
class Spec:
    """Units that leave a file in a folder each time they are tried, and then do as they are told.

    `first`: by key, what happens at a first try: "die", "fail", "kill node", or "wait" for a file
    named "go".
    """

    folder: Path
    first: dict[str, str] = field(default_factory=dict)

    @property
    def run_id(self) -> str:
        return "r"

    def build(self) -> "Spec":
        return self

    @property
    def store(self) -> Store:
        return Store(str(self.folder / "store"))

    def run_claimed(self, unit: Unit) -> Done | Held:
        import time

        tries = len(list(self.folder.glob(f"try-{unit.key}-*")))
        node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else "here"
        (self.folder / f"try-{unit.key}-{tries}").write_text(f"{node} {os.getpid()}")
        told = self.first.get(unit.key) if tries == 0 else None
        match told:
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "fail":
                raise ValueError("told to")
            case "kill node":
                # Not its parent, which may be a fork server.
                os.kill(int(os.environ["RAY_RAYLET_PID"]), signal.SIGKILL)
                time.sleep(60)
            case "wait":
                while not (self.folder / "go").exists():
                    time.sleep(0.1)
        for kind, key in unit.needs:
            self.store.load(self.store.get(kind, key), "object")
        claims = Claims(self.store, job="mine", worker="me")
        with claims.held(unit.kind, unit.key) as other:
            if other:
                return Held(claim=other)
            ref = self.store.put(unit.key.encode(), kind="object", model="m" * 12, suffix="bin")
            commit = Commit(kind=unit.kind, key=unit.key, objects={"object": ref}, provenance={})
            self.store.commit(commit)
        return Done(commit=commit, computed=True)

    def tries(self, key: str) -> list[str]:
        """Ids of the nodes on which a unit was tried."""
        return [node for node, _ in self._tries(key)]

    def processes(self, key: str) -> set[str]:
        """Ids of the processes that tried a unit."""
        return {process for _, process in self._tries(key)}

    def _tries(self, key: str) -> list[list[str]]:
        """Node and process of each try that has said both."""
        told = [path.read_text().split() for path in sorted(self.folder.glob(f"try-{key}-*"))]
        return [words for words in told if words]


def window(key: str, previous: str | None = None) -> WindowUnit:
    """A unit for an actor."""
    return WindowUnit(
        key=key,
        prompts=(),
        window=Window(0, 1),
        collection=Collection(),
        site="ffn_out",
        branches=2,
        previous=previous,
        last=True,
    )


@dataclass(frozen=True)
class TaskUnit(Unit):
    """A unit for a task, as much of it as a schedule looks at."""

    key: str
    needs: tuple[Need, ...] = ()


def mask(key: str, *needed: str) -> TaskUnit:
    """A unit for a task, that needs others of its kind."""
    return TaskUnit(key, tuple((TaskUnit.kind, need) for need in needed))


Run = Callable[..., tuple[dict[str, Result], Tick]]


def run_on(
    pool: WorkerPool | HerePool,
    *units: Unit,
    known: tuple[Unit, ...] = (),
    on_tick: Callable[[Tick], None] = lambda _: None,
    on_held: OnHeld = lambda _: None,
) -> tuple[dict[str, Result], Tick]:
    """The units' results by key, and the last look at the loop."""
    results: dict[str, Result] = {}
    ticks: list[Tick] = []

    def tick(now: Tick) -> None:
        ticks.append(now)
        on_tick(now)

    try:
        run_units(
            units,
            pool,
            known={unit.key: unit for unit in (*known, *units)},
            max_attempts=2,
            on_result=lambda result: results.__setitem__(result.unit.key, result),
            on_tick=tick,
            on_held=on_held,
        )
    finally:
        pool.close()
    return results, ticks[-1]


def run_here(spec: Spec, *units: Unit, **options: Any) -> tuple[dict[str, Result], Tick]:
    """Run units without Ray."""
    return run_on(HerePool(spec), *units, **options)


@pytest.fixture(scope="module")
def head() -> Iterator[Cluster]:
    """A head without room for actors or tasks: those go to nodes that a test adds."""
    settings = {
        # Ray runs workers at 15: where other programs are busy, they would hardly run at all.
        "worker_niceness": 0,
        # A node that is gone is noticed in seconds, not in half a minute.
        "health_check_initial_delay_ms": 0,
        "health_check_period_ms": 1000,
        "health_check_failure_threshold": 4,
    }
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": settings}
    )
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def run(head: Cluster) -> Run:
    """Runs units on the cluster's one node that takes work; it is there for the next test too."""

    def run(spec: Spec, *units: Unit, **options: Any) -> tuple[dict[str, Result], Tick]:
        if not head.worker_nodes:
            head.add_node(num_cpus=2)
        return run_on(WorkerPool(spec, Compute(actors=1)), *units, **options)

    return run


@pytest.fixture
def run_and_harm(head: Cluster, run: Run) -> Iterator[Run]:
    """The same for a test after which that node is of no use."""
    yield run
    for node in list(head.worker_nodes):
        head.remove_node(node, allow_graceful=False)
    # Until Ray has noticed, it would send the next test's actors there.
    deadline = time.monotonic() + 60
    while sum(node["Alive"] for node in ray.nodes()) > 1:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_unit_that_kills_its_worker_is_tried_again_and_the_one_behind_it_loses_no_attempt(
    run: Run, tmp_path: Path
) -> None:
    spec = Spec(tmp_path, {"a": "die"})
    results, _ = run(spec, window("a"), window("b"))
    assert {key: (r.status, r.attempts) for key, r in results.items()} == {
        "a": ("done", 2),
        "b": ("done", 1),
    }


class _Stuck(Spec):
    """Its units never end at their first try, as where a device or a drive does not answer."""

    def run_claimed(self, unit: Unit) -> Done | Held:
        if self.tries(unit.key):
            return super().run_claimed(unit)
        (self.folder / f"try-{unit.key}-0").write_text("stuck 0")
        claims_module.STUCK_SECONDS = 0.5
        claims = Claims(self.store, job="mine", worker="me", seconds=0.3, on_stuck=end_process)
        with claims.held(unit.kind, unit.key):
            while True:
                time.sleep(60)


@pytest.mark.parametrize("unit", [window("a"), mask("a")], ids=["of an actor", "of a task"])
def test_a_unit_that_is_stuck_is_ended_and_tried_again(
    run: Run, tmp_path: Path, unit: Unit
) -> None:
    results, _ = run(_Stuck(tmp_path), unit)
    assert (results["a"].status, results["a"].attempts) == ("done", 2)


def test_work_found_damaged_is_done_again_for_whoever_needs_it(run: Run, tmp_path: Path) -> None:
    spec = Spec(tmp_path)
    single, fused = mask("mask"), mask("fused", "mask")
    run(spec, single)
    path = spec.store.get(TaskUnit.kind, "mask").objects["object"].path
    (tmp_path / "store" / path).write_bytes(b"flip")
    results, _ = run(spec, fused, known=(single,))
    assert {key: (r.status, r.attempts) for key, r in results.items()} == {
        "mask": ("done", 1),
        "fused": ("done", 1),
    }
    assert (tmp_path / "store" / "damaged" / path).read_bytes() == b"flip"


def test_work_that_is_lost_again_and_again_fails_with_what_needs_it(tmp_path: Path) -> None:
    spec = _Losing(tmp_path)
    single, fused = mask("mask"), mask("fused", "mask")
    results, _ = run_here(spec, single, fused)
    assert results["mask"].status == "failed"
    assert "LostUnitError" in (results["mask"].error or "")
    assert results["fused"].status == "blocked"


class _Losing(Spec):
    """Its store loses a mask as soon as it is asked for it."""

    def run_claimed(self, unit: Unit) -> Done | Held:
        if unit.needs:
            (commit,) = (self.store.find(*need) for need in unit.needs)
            if commit is not None:
                self.store.remove([ref.path for ref in commit.objects.values()])
        return super().run_claimed(unit)


def test_a_unit_that_another_job_is_at_is_waited_for(tmp_path: Path) -> None:
    spec = Spec(tmp_path)
    theirs = Claims(spec.store, job="theirs", worker="elsewhere", seconds=3)
    held = theirs.held("window", "a")
    assert held.__enter__() is None

    def release(tick: Tick) -> None:
        if tick.in_flight == 0 and spec.tries("a"):
            held.__exit__(None, None, None)

    results, _ = run_here(spec, window("a"), on_tick=release)
    assert (results["a"].status, results["a"].attempts) == ("done", 1)


def test_a_unit_whose_claim_nobody_renews_is_taken_over_whatever_the_claim_says(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each look is another worker's, so only the driver sees that nothing changes."""
    spec, unit = Spec(tmp_path), mask("a")
    later = time.time() + 3600
    dead = Claim(
        kind=unit.kind,
        key=unit.key,
        job="theirs",
        worker="node-7/1",
        since=later,
        expires=later + 1,
        seconds=1.0,
    )
    spec.store.write_claim(dead.path, dead.to_bytes())
    waited_for: list[str | None] = []
    with OtherJobs(spec.store, claim_seconds=30.0) as others:
        results, _ = run_here(
            spec, unit, on_held=others.held, on_tick=lambda tick: waited_for.append(tick.held)
        )
    assert (results["a"].status, results["a"].attempts) == ("done", 1)
    assert "job theirs on node-7/1 has not renewed its claim for 1 s" in caplog.text
    said = f"{unit.kind} a, which job theirs on node-7/1 is computing"
    assert said in waited_for


def test_a_node_that_is_taken_away_costs_no_attempt(
    run_and_harm: Run, head: Cluster, tmp_path: Path
) -> None:
    spec = Spec(tmp_path, {"a": "kill node"})

    def replace_node(tick: Tick) -> None:
        if spec.tries("a") and not any(is_up(node) for node in spec.tries("a")):
            head.add_node(num_cpus=2)

    results, _ = run_and_harm(spec, window("a"), on_tick=replace_node)
    assert (results["a"].status, results["a"].attempts) == ("done", 1)
    assert len(set(spec.tries("a"))) == 2


def test_a_drained_node_finishes_what_it_is_at_and_hands_back_the_rest(
    run_and_harm: Run, head: Cluster, tmp_path: Path
) -> None:
    spec = Spec(tmp_path, {"a": "wait", "b": "wait"})
    drained: list[str] = []

    def drain(_: Tick) -> None:
        if (begun := spec.tries("a") or spec.tries("b")) and not drained:
            drained.extend(begun)
            head.add_node(num_cpus=2)
            subprocess.run(
                [
                    str(Path(sys.executable).with_name("ray")),
                    "drain-node",
                    f"--address={head.address}",
                    f"--node-id={drained[0]}",
                    "--reason=DRAIN_NODE_REASON_PREEMPTION",
                    "--reason-message=a test",
                    "--deadline-remaining-seconds=600",
                ],
                check=True,
                capture_output=True,
            )
            assert draining_nodes() == set(drained)
        elif drained and spec.tries("a") and spec.tries("b"):
            (tmp_path / "go").touch()

    results, _ = run_and_harm(spec, window("a"), window("b"), on_tick=drain)
    assert {key: (r.status, r.attempts) for key, r in results.items()} == {
        "a": ("done", 1),
        "b": ("done", 1),
    }
    # What ran was let finish; what waited behind it went to another actor: neither ended before
    # both had begun. Where that one starts is for Ray to say, whose nodes hear of a drain one after
    # the other. (Ray only tries to cancel a call: it may still begin in the old actor later, where
    # it finds the unit claimed.)
    assert drained in (spec.tries("a"), spec.tries("b"))
    assert len(spec.processes("a") | spec.processes("b")) == 2


def test_a_job_without_ray_gives_signs_of_life_while_it_computes(tmp_path: Path) -> None:
    def tick(now: Tick) -> None:
        if now.in_flight:
            (tmp_path / "go").touch()

    results, _ = run_here(Spec(tmp_path, {"a": "wait"}), window("a"), on_tick=tick)
    assert (results["a"].status, results["a"].attempts) == ("done", 1)


@pytest.mark.parametrize("where", ["on Ray", "here"])
def test_an_error_that_another_try_mends_is_counted_as_a_retry(
    request: pytest.FixtureRequest, tmp_path: Path, where: str
) -> None:
    run = request.getfixturevalue("run") if where == "on Ray" else run_here
    results, _ = run(Spec(tmp_path, {"m": "fail"}), mask("m"))
    assert (results["m"].status, results["m"].attempts) == ("done", 2)


def test_a_result_that_differs_from_the_committed_one_is_not_covered_up_by_another_try(
    tmp_path: Path,
) -> None:
    results, _ = run_here(_Overtaken(tmp_path), mask("m"))
    assert (results["m"].status, results["m"].attempts) == ("failed", 1)
    assert "NondeterminismError: task m is not deterministic" in (results["m"].error or "")


class _Overtaken(Spec):
    """Its units are claimed too late: another worker commits other bytes while they compute."""

    def run_claimed(self, unit: Unit) -> Done | Held:
        claims = Claims(self.store, job="mine", worker="me")
        return _OvertakenWorker(self.store, claims).run_claimed(unit)


class _OvertakenWorker(UnitWorker):
    def make(self, unit: Unit) -> Made:
        theirs, mine = (
            {"object": self.store.put(data, kind="object", model="m" * 12, suffix="bin")}
            for data in (b"theirs", b"mine")
        )
        self.store.commit(Commit(kind=unit.kind, key=unit.key, objects=theirs, provenance={}))
        return Made(objects=mine)
