"""The single-machine head keeps its files from other users of the machine, or does not start."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def start(home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Start a head whose `ray` only says that it was started."""
    programs = home / "bin"
    programs.mkdir(exist_ok=True)
    (programs / "ray").write_text("#!/bin/sh\necho ray was started\nexit 1\n", encoding="utf-8")
    (programs / "ray").chmod(0o755)
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return subprocess.run(
        ["bash", str(ROOT / "cluster" / "local-head.sh"), "start"],
        # No head listens at this port of a dashboard.
        env={**kept, "HOME": str(home), "BIN": str(programs), "DASHBOARD_PORT": "1", **environment},
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
    )


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_rays_own_folder_that_others_could_read_is_made_private(tmp_path: Path) -> None:
    folder = tmp_path / ".ray"
    folder.mkdir()
    folder.chmod(0o755)
    start(tmp_path)
    assert mode(folder) == 0o700


def test_a_folder_that_is_not_there_is_made_private(tmp_path: Path) -> None:
    start(tmp_path, STATE=str(tmp_path / "state"))
    assert mode(tmp_path / "state") == mode(tmp_path / ".ray") == 0o700


@pytest.mark.parametrize(("name", "bits"), [(".ray", 0o777), (".ray", 0o720), ("state", 0o755)])
def test_a_folder_in_which_others_could_put_something_or_that_may_be_shared_is_refused(
    tmp_path: Path, name: str, bits: int
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    folder.chmod(bits)
    ended = start(tmp_path, STATE=str(folder))
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert f"{folder} is open to other users of this machine: chmod go= '{folder}'" in line
    # Nothing was changed or left there.
    assert mode(folder) == bits
    assert not list(folder.iterdir())


def test_a_token_that_others_could_read_is_refused(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("planted-token", encoding="utf-8")
    token.chmod(0o640)
    ended = start(tmp_path, STATE=str(tmp_path / "state"), RAY_AUTH_TOKEN_PATH=str(token))
    assert ended.returncode == 1
    assert f"{token} is open to other users" in ended.stderr
    assert "planted-token" not in ended.stderr
