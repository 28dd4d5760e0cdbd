"""The single-machine head of `cluster/`: a real head with token authentication and a real job."""

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from conceptprune.store import Store
from pipelines.ledger import read_ledger

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "cluster" / "local-head.sh"


@pytest.fixture
def head(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a head that runs on ports of its own."""
    (tmp_path / "token").write_text(secrets.token_hex(32), encoding="utf-8")
    environment = {
        **os.environ,
        "BIN": str(Path(sys.executable).parent),
        "PORT": "6391",
        "DASHBOARD_PORT": "8291",
        "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token"),
    }
    subprocess.run([SCRIPT, "start"], env=environment, check=True, timeout=120)
    yield environment
    subprocess.run([SCRIPT, "stop"], env=environment, check=True, timeout=60)


def submit(head: dict[str, str], manifest: Path, store: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPT, "submit", manifest, store],
        env=head,
        text=True,
        capture_output=True,
        timeout=200,
        check=False,
    )


def test_a_job_submitted_to_the_head_erases_and_its_exit_code_is_the_verdict(
    head: dict[str, str], tmp_path: Path, tiny_folder: Path
) -> None:
    manifest = tmp_path / "manifest.yaml"
    content = {
        "version": 1,
        "model": {"folder": str(tiny_folder)},
        "concepts": [{"name": "Ada Bell", "kind": "style", "fillers": ["cat", "car"]}],
        "collection": {"steps": 5, "tau": 2, "dtype": "float32"},
        "pruning": {"sparsity": 0.02},
        "compute": {"actors": 1, "cpus_per_actor": 0.5},
    }
    manifest.write_text(yaml.safe_dump(content), encoding="utf-8")
    store = tmp_path / "store"
    done = submit(head, manifest, store)
    assert done.returncode == 0, done.stdout + done.stderr
    opened = Store(str(store))
    (run,) = opened.runs()
    assert {row["status"] for row in read_ledger(opened, run)} == {"done"}

    content["pruning"] = {"sparsity": 9}
    manifest.write_text(yaml.safe_dump(content), encoding="utf-8")
    refused = submit(head, manifest, store)
    assert refused.returncode == 1
    assert "pruning.sparsity" in refused.stdout + refused.stderr

    # Without the token nobody gets in.
    stranger = {**head, "RAY_AUTH_TOKEN_PATH": str(tmp_path / "other")}
    (tmp_path / "other").write_text(secrets.token_hex(32), encoding="utf-8")
    assert submit(stranger, manifest, store).returncode != 0
