"""Fixtures of the chaos suite: a cluster of several nodes, scenes, and the table at the end."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest
import yaml
from ray.cluster_utils import Cluster

from conceptprune.store import Store
from conceptprune.units.prompts_units import prompts_units
from conceptprune.units.worker import Worker
from pipelines.jobs.preparation import plan_here, prepare
from tests.end_to_end.chaos.scene import (
    RAY,
    Masks,
    Outcome,
    Scene,
    at_work,
    clean_environment,
    masks_of,
    table_of,
)
from tests.end_to_end.chaos.witness import FolderWitness, ProxyWitness
from tests.support.forking.start import real
from tests.support.s3_faults import FaultProxy
from tests.support.s3_server import BUCKET, SeaweedServer, running_server, use_server

ARTISTS = ("Ada Bell", "Cy Dorn", "Eve Fal", "Gus Hill")
OUTCOMES = pytest.StashKey[list[Outcome]]()

Write = Callable[..., Path]
MakeScene = Callable[..., Scene]
Judge = Callable[..., None]


def pytest_configure(config: pytest.Config) -> None:
    config.stash[OUTCOMES] = []


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    given = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
    if "seed" in metafunc.fixturenames and "seed" not in given:
        metafunc.parametrize("seed", range(metafunc.config.getoption("--chaos-long") or 1))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--chaos-long"):
        return
    left_out = [item for item in items if item.get_closest_marker("chaos_long")]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if config.stash[OUTCOMES]:
        terminalreporter.section("faults")
        outcomes = config.stash[OUTCOMES]
        for line in table_of(outcomes):
            terminalreporter.write_line(line)


@pytest.fixture
def judge(request: pytest.FixtureRequest) -> Judge:
    """Holds a scene against the undisturbed run, and puts it down for the table."""

    def judge(
        scene: Scene, fault: str, *, in_flight: set[str] | int, recomputed: int | None = None
    ) -> None:
        again = scene.again()
        outcome = scene.outcome(
            fault,
            in_flight=in_flight,
            recomputed=len(again) if recomputed is None else recomputed,
        )
        request.config.stash[OUTCOMES].append(outcome)
        assert scene.masks() == scene.expected
        assert outcome.recomputed <= outcome.in_flight
        if isinstance(in_flight, set) and recomputed is None:
            assert again <= in_flight
        assert scene.faults > 0

    return judge


@pytest.fixture(scope="session")
def write(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path
) -> Write:
    """Writes a manifest of the tiny model: 50 units with all artists, mostly windows.

    The short form is done with half of the artists, windows and actors, in 18 units: each unit
    takes a dozen requests to a store, and each actor seconds to start. A window that resumes from
    another's state is still among them, as are several shards, and a mask of several others.
    """
    long = bool(pytestconfig.getoption("--chaos-long"))
    usual = ARTISTS if long else ARTISTS[:2]
    workers = 2 if long else 1

    def write(
        *artists: str, fuse: bool = True, claim_seconds: float = 5.0, actors: int = workers
    ) -> Path:
        content = {
            "version": 1,
            "model": {"folder": str(tiny_folder)},
            "concepts": [{"name": name, "kind": "style"} for name in artists or usual],
            "fillers": {"style": ["cat", "car", "tree", "dog"]},
            "collection": {
                "steps": 10,
                "tau": 4 if long else 2,
                "batch_size": 2,
                "shard_prompts": 2,
                "window": 1,
                "dtype": "float32",
            },
            "pruning": {"sparsity": 0.02},
            "outputs": {"fuse": "union" if fuse else None},
            "compute": {
                "actors": actors,
                "cpus_per_actor": 0.5,
                "claim_seconds": claim_seconds,
            },
        }
        path = tmp_path_factory.mktemp("manifest") / "manifest.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, write: Write) -> tuple[Masks, int]:
    """The masks as this process makes them, one unit after the other, and of how many units."""
    store = Store(str(tmp_path_factory.mktemp("undisturbed")))
    prepared = prepare(write())
    worker = Worker(store, prepared.model)
    units = (*prompts_units(prepared.manifest), *plan_here(prepared).units())
    for unit in units:
        worker.run(unit)
    return masks_of(store), len(units)


@pytest.fixture
def scene(tmp_path: Path, undisturbed: tuple[Masks, int], seed: int) -> Iterator[MakeScene]:
    """Makes a scene on a folder, by default one of its own, or behind a proxy."""
    made: list[Scene] = []

    def make(folder: Path = tmp_path / "store", proxy: FaultProxy | None = None) -> Scene:
        scene = Scene(
            uri=f"s3://{BUCKET}/{uuid4().hex[:8]}" if proxy else str(folder),
            witness=ProxyWitness(proxy) if proxy else FolderWitness(folder),
            expected=undisturbed[0],
            units=undisturbed[1],
            seed=seed,
            folder=tmp_path,
            environment=clean_environment(),
        )
        made.append(scene)
        return scene

    yield make
    for scene in made:
        scene.close()


class Nodes:
    """A head without room for work, and nodes that can be taken away.

    A head that works is the first of these nodes, for those who take none away: each node is four
    processes that have to start.
    """

    def __init__(self, *, head_works: bool = False) -> None:
        self.cluster = Cluster(
            initialize_head=True,
            head_node_args={
                # Of two CPUs, one is left for a task beside the actor of the short form.
                "num_cpus": 2 if head_works else 0,
                "include_dashboard": False,
                # They scale and print, which nobody asks for here.
                "no_monitor": True,
                "include_log_monitor": False,
                "env_vars": {"RAY_health_check_period_ms": "500"},
            },
        )
        self.workers: list[Any] = [self.cluster.head_node] if head_works else []
        self.address: str = self.cluster.address

    def have(self, number: int, **environment: str) -> None:
        """Make nodes that take work until there are `number`."""
        while len(self.workers) < number:
            self.workers.append(self.cluster.add_node(num_cpus=3, env_vars=environment))

    def of(self, worker: psutil.Process) -> Any:
        """The node that a worker is on."""
        (node,) = (node for node in self.workers if worker in self._children(node))
        return node

    def raylet(self, node: Any) -> psutil.Process:
        (raylet,) = node.all_processes["raylet"]
        return psutil.Process(raylet.process.pid)

    def kill_raylet(self, node: Any) -> None:
        """Its workers end by themselves, once it is gone and no zombie."""
        (raylet,) = node.all_processes["raylet"]
        raylet.process.kill()
        raylet.process.wait()

    def workers_of(self, node: Any) -> list[psutil.Process]:
        """Processes that have been given something to do."""
        return [child for child in self._children(node) if at_work(child)]

    def _children(self, node: Any) -> Iterator[psutil.Process]:
        for child in self.raylet(node).children():
            with suppress(psutil.NoSuchProcess):
                yield real(child)

    def forget(self, node: Any) -> None:
        """Clear away what is left of a node."""
        self.workers.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)

    def drain(self, node: Any) -> None:
        """Give notice that a node will be taken away."""
        (found,) = (
            entry["NodeID"]
            for entry in self.cluster.global_state.node_table()
            if entry["ObjectStoreSocketName"] == node.plasma_store_socket_name
        )
        ray = str(Path(sys.executable).with_name("ray"))
        command = [
            *(ray, "drain-node", f"--address={self.address}", f"--node-id={found}"),
            "--reason=DRAIN_NODE_REASON_PREEMPTION",
            "--reason-message=chaos",
            "--deadline-remaining-seconds=600",
        ]
        done = psutil.Popen(command, env=clean_environment())
        assert done.wait(120) == 0

    def harm_head(self, harm: signal.Signals) -> None:
        """Send a signal to the cluster's control service."""
        (gcs,) = self.cluster.head_node.all_processes["gcs_server"]
        os.kill(gcs.process.pid, harm)

    def shut_down(self) -> None:
        """End every process."""
        if self.cluster.head_node.all_processes["gcs_server"][0].process.poll() is None:
            self.harm_head(signal.SIGCONT)
        self.cluster.shutdown()


@pytest.fixture(scope="session")
def told_ray() -> Iterator[None]:
    """Sets for this process, which starts the nodes, what the drivers are told too."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in RAY.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def cluster(pytestconfig: pytest.Config, told_ray: None) -> Iterator[Nodes]:
    """One cluster for all scenarios that do not end it: starting one takes seconds."""
    nodes = Nodes(head_works=not pytestconfig.getoption("--chaos-long"))
    yield nodes
    nodes.shut_down()


@pytest.fixture
def other_cluster(told_ray: None) -> Iterator[Nodes]:
    """A cluster for a test that ends it."""
    nodes = Nodes()
    yield nodes
    nodes.shut_down()


@pytest.fixture(scope="session")
def server() -> Iterator[SeaweedServer]:
    with running_server() as running:
        yield running


@pytest.fixture
def proxy(server: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """The way to the server that the environment points at; it lets everything through at first."""
    with FaultProxy(server.port) as running:
        use_server(monkeypatch, running.endpoint)
        yield running
