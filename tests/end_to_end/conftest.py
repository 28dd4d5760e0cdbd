"""What the tests of whole jobs share: a Ray cluster, and masks as one process makes them."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray

from conceptprune.store import Store
from conceptprune.units.worker import Worker
from pipelines.jobs.preparation import plan_here, prepare


@pytest.fixture(scope="package")
def cluster() -> Iterator[None]:
    """One cluster for all jobs that are driven from the tests' process: starting one takes seconds.

    Its workers report their metrics once a second.
    """
    for tries_left in (2, 1, 0):
        try:
            _start()
            break
        except Exception as error:
            # Ray gives a node half a minute to start, however busy the machine is.
            if not tries_left or "timed out during startup" not in str(error):
                raise
            ray.shutdown()
    yield
    ray.shutdown()


def _start() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        _metrics_export_port=port,
        _system_config={
            "metrics_report_interval_ms": 1000,
            # Ray runs workers at 15: where other programs are busy, they would hardly run at all.
            "worker_niceness": 0,
        },
    )


@pytest.fixture(scope="package")
def here(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], dict[str, bytes]]:
    """The masks of a manifest, computed in this process, unit by unit, without Ray."""

    def run(manifest: Path) -> dict[str, bytes]:
        folder = tmp_path_factory.mktemp("here")
        prepared = prepare(manifest)
        worker = Worker(Store(str(folder)), prepared.model)
        for prompts in reversed(prepared.prompts_units()):
            worker.run(prompts)
        for unit in plan_here(prepared, worker.store).units():
            worker.run(unit)
        return masks(folder)

    return run


def masks(store: Path) -> dict[str, bytes]:
    """The masks in a store, by the names of their files."""
    return objects(store, "mask")


def objects(store: Path, kind: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (store / "objects" / kind).rglob("*.*")}
