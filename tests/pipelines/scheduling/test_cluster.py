"""Joining a cluster: one that is not there, and a machine that no actor fits, are said at once."""

import socket
from pathlib import Path

import pytest

from conceptprune.errors import UserError
from conceptprune.manifest import Compute
from pipelines.cli import main
from pipelines.scheduling.cluster import check_fits, lack
from pipelines.scheduling.workers import ActorSlot, WorkerPool
from tests.pipelines.conftest import write_manifest


def test_a_cluster_that_does_not_answer_is_one_message_and_exit_1(
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        manifest = write_manifest(tmp_path / "m.yaml", tiny_folder)
        with pytest.raises(SystemExit) as stop:
            main(["erase", str(manifest), "--store", str(tmp_path / "store")])
    assert stop.value.code == 1
    assert f"error: no Ray cluster answers at RAY_ADDRESS={address}" in capsys.readouterr().err


def test_actors_that_no_machine_here_fits_are_refused() -> None:
    with pytest.raises(UserError, match=r"gpus_per_actor: 1, but this machine has 0 GPUs"):
        check_fits(Compute(gpus_per_actor=1.0), {"CPU": 8.0})
    check_fits(Compute(gpus_per_actor=0.5), {"CPU": 8.0, "GPU": 1.0})


@pytest.mark.parametrize(
    ("asked", "alive", "tasks", "told"),
    [
        (2, 0, 0, "no actor has started, each needs 1 CPUs and 1 GPUs"),
        (2, 1, 3, None),
        (2, 2, 3, "the actors hold the cluster's 2 CPUs"),
        (2, 2, 0, None),
        (0, 0, 3, None),
    ],
)
def test_what_a_cluster_has_no_room_for_is_told(
    asked: int, alive: int, tasks: int, told: str | None
) -> None:
    compute = Compute(gpus_per_actor=1.0)
    found = lack(compute, cpus=2, asked=asked, alive=alive, tasks=tasks)
    assert (found or "").startswith(told or "")
    assert (found is None) == (told is None)


def test_only_actors_that_have_started_count_as_alive() -> None:
    pool = WorkerPool.__new__(WorkerPool)
    pool.slots = [ActorSlot(None, None), ActorSlot(None, None, node="here")]
    assert pool.alive == 1
