"""The jobs and the command line, in any versions of what they need: see `make lower-bounds`.

Not part of `make test`, as its name says to pytest: there, other tests show the same.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from conceptprune.studio import model_path
from pipelines.cli import app, main
from tests.pipelines.conftest import write_manifest
from tests.support.s3_server import BUCKET, running_server, use_server

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.timeout(1800)


def exit_code(*arguments: object) -> object:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


def test_every_command_explains_itself_and_refuses_bad_input_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in app.registered_commands:
        assert command.callback is not None
        name = command.name or command.callback.__name__
        assert exit_code(name, "-h") == 0
        assert "Usage: " in capsys.readouterr().out
    for arguments in (["plan", tmp_path / "missing.yaml"], ["plan"], ["erase", "--nonsense"]):
        assert exit_code(*arguments) == 2
        assert capsys.readouterr().err.strip()


def test_a_job_on_its_own_ray_fills_a_store_in_s3(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # The shipped model: what makes others for tests is written for one version of transformers.
    small: dict[str, object] = {
        "fillers": {"style": ["cat"]},
        "concepts": [{"name": "Ada Bell", "kind": "style"}],
        "collection": {"steps": 2, "tau": 1, "device": "cpu"},
        "compute": {"actors": 1, "cpus_per_actor": 0.5},
        "outputs": {},
    }
    manifest = write_manifest(tmp_path / "m.yaml", model_path(), **small)
    store = f"s3://{BUCKET}/store"
    with running_server() as server:
        use_server(monkeypatch, server.endpoint)
        # A process of its own: this one may have a cluster, which does not know the server.
        command = [sys.executable, "-m", "pipelines", "erase", str(manifest), "--store", store]
        job = subprocess.run(command, text=True, capture_output=True, cwd=ROOT)
        assert job.returncode == 0, job.stderr
        assert exit_code("plan", manifest, "--store", store) == 0
        assert "nothing to compute" in capsys.readouterr().out
        assert exit_code("status", store) == 0
        assert exit_code("export", store, "--all", "--out", tmp_path / "masks", "--as", "mask") == 0
    assert list((tmp_path / "masks").rglob("*.safetensors"))
