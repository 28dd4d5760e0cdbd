"""The single-machine head of `cluster/`: a real head with token authentication, and real jobs.

All tests share one head; a job's processes take seconds to start, so there are few jobs.
"""

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
import yaml

from conceptprune.store import Store
from pipelines.ledger import read_ledger

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "cluster" / "local-head.sh"
PROGRAM = str(Path(sys.executable).with_name("conceptprune"))
ADDRESS = "http://127.0.0.1:8291"
SECRET = "planted-secret"


@dataclass(frozen=True, kw_only=True)
class Head:
    folder: Path
    token: str
    environment: dict[str, str]

    def script(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return self.run([str(SCRIPT), *map(str, arguments)])

    def submit(
        self, manifest: Path, store: Path, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return self.run(self.submit_command(manifest, store), **environment)

    def submit_command(self, manifest: Path, store: Path) -> list[str]:
        options = ["--store", str(store), "--address", ADDRESS]
        return [PROGRAM, "submit", str(manifest), *options, "--working-dir", str(manifest.parent)]

    def ask(self, path: str) -> str:
        """What the Jobs API answers, as it is sent."""
        request = Request(ADDRESS + path, headers={"Authorization": f"Bearer {self.token}"})
        with urlopen(request, timeout=60) as answer:
            return answer.read().decode()

    def run(self, command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            env={**self.environment, **environment},
            text=True,
            capture_output=True,
            timeout=200,
            check=False,
        )


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    folder = tmp_path_factory.mktemp("head")
    token = secrets.token_hex(32)
    (folder / "token").write_text(token, encoding="utf-8")
    environment = {
        **os.environ,
        "BIN": str(Path(sys.executable).parent),
        "PORT": "6391",
        "DASHBOARD_PORT": ADDRESS.rpartition(":")[2],
        "STATE": str(folder),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "AWS_SECRET_ACCESS_KEY": SECRET,
    }
    environment.pop("RAY_ADDRESS", None)
    head = Head(folder=folder, token=token, environment=environment)
    started = head.script("start")
    assert started.returncode == 0, started.stdout + started.stderr
    yield head
    assert head.script("stop").returncode == 0


def write_manifest(path: Path, model: Path) -> Path:
    content = {
        "version": 1,
        "model": {"folder": str(model)},
        "concepts": [{"name": "Ada Bell", "kind": "style", "fillers": ["cat", "car"]}],
        "collection": {"steps": 5, "tau": 2, "dtype": "float32"},
        "pruning": {"sparsity": 0.02},
        "compute": {"actors": 1, "cpus_per_actor": 0.5},
    }
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def test_a_run_is_submitted_left_refused_while_live_followed_and_submitted_again(
    head: Head, tmp_path: Path, tiny_folder: Path
) -> None:
    manifest = write_manifest(tmp_path / "work" / "my manifest.yaml", tiny_folder)
    store = tmp_path / "store"

    # Ctrl-C once it runs: the job goes on.
    first = subprocess.Popen(
        head.submit_command(manifest, store),
        env=head.environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A process that a shell has put into the background ignores Ctrl-C, and its children do.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert first.stdout
    run = first.stdout.readline().split()[-1]
    assert run.startswith("conceptprune-")
    first.send_signal(signal.SIGINT)
    _, errors = first.communicate(timeout=60)
    assert first.returncode == 130, errors
    assert f"ray job logs --address {ADDRESS} --follow {run}" in errors

    live = head.submit(manifest, store)
    assert live.returncode == 2
    assert "nothing was submitted" in live.stderr

    follow = [str(Path(sys.executable).with_name("ray")), "job", "logs", "--address", ADDRESS]
    followed = head.run([*follow, "--follow", run])
    assert "1/1 concepts" in followed.stdout
    opened = Store(str(store))
    (recorded,) = opened.runs()
    assert {row["status"] for row in read_ledger(opened, recorded)} == {"done"}

    again = head.submit(manifest, store)
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"submitted {run}-2" in again.stdout
    assert "nothing to compute" in again.stdout

    told = head.ask("/api/jobs/") + head.ask(f"/api/jobs/{run}/logs")
    assert "pipelines.erase" in told
    assert head.token not in told
    assert SECRET not in told


def test_the_documented_command_runs_and_a_job_with_bad_input_is_told_by_its_exit_code(
    head: Head, tmp_path: Path
) -> None:
    # Good in itself, but no machine has the model: only the job can find that out.
    manifest = write_manifest(tmp_path / "work" / "manifest.yaml", tmp_path / "no-model")
    store = tmp_path / "store"
    with ThreadPoolExecutor() as pool:
        plain = pool.submit(head.script, "submit", manifest, store)
        verdict = head.submit(manifest, store)
    assert verdict.returncode == 2, verdict.stdout + verdict.stderr
    assert "no-model is not a folder on this machine" in verdict.stdout
    # Ray's own command knows success and failure only.
    said = plain.result()
    assert said.returncode == 1
    assert "no-model is not a folder on this machine" in said.stdout + said.stderr


def test_without_the_token_nobody_gets_in(head: Head, tmp_path: Path, tiny_folder: Path) -> None:
    manifest = write_manifest(tmp_path / "work" / "manifest.yaml", tiny_folder)
    other = tmp_path / "other"
    other.write_text(secrets.token_hex(32), encoding="utf-8")
    stranger = head.submit(manifest, tmp_path / "store", RAY_AUTH_TOKEN_PATH=str(other))
    assert stranger.returncode == 2
    assert "Invalid authentication token" in stranger.stderr
    assert not (tmp_path / "store").exists()


def test_a_head_is_not_started_twice(head: Head) -> None:
    assert head.script("start").returncode == 1
