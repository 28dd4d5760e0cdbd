"""Joining a cluster: one that is not there, and a machine that no actor fits, are said at once."""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc  # type: ignore[import-untyped]
import pytest
from ray._private import ray_constants

from conceptprune.errors import ClusterError, UserError
from conceptprune.manifest import Compute
from pipelines.cli import main
from pipelines.scheduling import cluster
from pipelines.scheduling.cluster import check_fits, connected, lack, not_started
from pipelines.scheduling.workers import ActorSlot, WorkerPool
from tests.pipelines.conftest import write_manifest
from tests.support.sockets import documented

ROOT = Path(__file__).parents[3]


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


@pytest.mark.parametrize(
    ("address", "told"),
    [
        (
            "http://10.0.0.7:8265",
            "is the address of the Jobs API, which is for",
        ),
        ("https://ray.example.org", "is the address of the Jobs API"),
        ("ray://10.0.0.7:10001", "jobs do not run through Ray Client"),
        ("10.0.0.7", "is not HOST:PORT"),
        ("10.0.0.7:6379/", "is not HOST:PORT"),
        ("head:", "is not HOST:PORT"),
    ],
)
def test_an_address_of_something_else_is_refused_with_what_to_use(
    address: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError, match=told) as refused, connected(Compute()):
        pass
    assert str(refused.value).startswith(f"RAY_ADDRESS={address}: ")
    assert "HOST:PORT" in str(refused.value)


def test_who_is_no_head_of_a_cluster_is_not_asked_for_minutes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cluster, "SECONDS_TO_SPEAK", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{silent.getsockname()[1]}")
        no_head = pytest.raises(ClusterError, match="is not the head of a Ray cluster")
        with no_head, connected(Compute()):
            pass


def test_a_cluster_that_does_not_let_this_process_in_is_one_line(
    tiny_folder: Path, tmp_path: Path
) -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    # A process of its own: Ray reads its way of authentication once.
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pipelines", "erase"),
            str(write_manifest(tmp_path / "m.yaml", tiny_folder)),
            *("--store", str(tmp_path / "store")),
        ],
        cwd=ROOT,
        env={
            **os.environ,
            "RAY_ADDRESS": address,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": "",
            "HOME": str(tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=240,
    )
    server.stop(None)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"error: RAY_ADDRESS={address}: this process cannot join that cluster: ")
    assert "token" in last


def test_the_word_local_means_a_cluster_of_this_machine_with_a_token_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Ray's own local cluster listens on all interfaces, and lets everybody in.
    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "missing"))
    ours = pytest.raises(ClusterError, match="no folder can be made in RAY_TMPDIR")
    with ours, connected(Compute()):
        pass


def test_a_local_cluster_that_does_not_start_is_one_line_with_its_log_and_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    could_not = pytest.raises(ClusterError, match="no local Ray cluster could be started")
    with could_not as failed, connected(Compute()):
        pass
    message = str(failed.value)
    assert "\n" not in message
    assert "set RAY_TMPDIR to a folder with a shorter path" in message
    assert re.search(rf"{folder}/cp-\w+/ray/session_latest/logs", message)


def test_a_temporary_folder_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", "/nowhere")
    with (
        pytest.raises(ClusterError, match="no folder can be made in RAY_TMPDIR"),
        connected(Compute()),
    ):
        pass


def test_a_local_cluster_that_is_too_slow_is_one_line_too() -> None:
    error = Exception("The current node timed out during startup.\nThis could")
    message = not_started(error, Path("/tmp/cp-x"))
    assert message.startswith(
        "no local Ray cluster could be started: The current node timed out during startup. This "
        "could; run it again"
    )


def test_ray_does_not_start_workers_through_uv() -> None:
    # Read by Ray when it is imported: only so do workers of a driver under `uv run` start.
    assert not ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV


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


def test_a_cluster_of_this_machine_listens_on_the_loopback_with_a_token_in_a_private_folder() -> (
    None
):
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        environment = {**os.environ, "RAY_TMPDIR": folder}
        for name in ("RAY_ADDRESS", "RAY_AUTH_MODE"):
            environment.pop(name, None)
        done = subprocess.run(
            [sys.executable, "-m", "tests.support.own_cluster"],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
        )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    sockets = {tuple(one) for one in told.pop("sockets")}
    assert {"gcs_server", "raylet"} <= {name for name, _ in sockets}
    assert {address for _, address in sockets} == documented("erase") == {"127.0.0.1"}
    assert told == {
        "own": True,
        "folder_mode": 0o700,
        "token_mode": 0o600,
        "auth": "token",
        "up": True,
        # And it is seen to lose its node; here, because a cluster takes seconds to start.
        "up_without_node": False,
        "folder_left": False,
        "auth_left": False,
    }
