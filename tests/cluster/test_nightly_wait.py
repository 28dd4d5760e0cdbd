"""The nightly pod's script, run by a real shell: it ends with its RayJob, and not before.

`kubectl` and `sleep` are stand-ins that follow a list of answers; the script is the manifest's own.
"""

import os
import subprocess
from pathlib import Path

import pytest

from tests.cluster.test_kuberay import the

LAST_STAGES = ("Complete", "Failed", "ValidationFailed")
"""What of `JobDeploymentStatus` KubeRay 1.7 never leaves (its apis/ray/v1/rayjob_types.go)."""

KUBECTL = """#!/bin/sh
case "$1" in
  create) echo rayjob.ray.io/conceptprune-abcde; exit 0;;
esac
case "$*" in
  *jobStatus*) echo "$VERDICT"; exit 0;;
esac
read -r answer < "$ANSWERS" || answer=error
sed -i 1d "$ANSWERS"
[ "$answer" = error ] && { echo "Error from server (Timeout)" >&2; exit 1; }
[ "$answer" = new ] || echo "$answer"
"""


def night(folder: Path, answers: list[str], verdict: str) -> subprocess.CompletedProcess[str]:
    """The script's end; once the answers are used up, the API server gives errors."""
    (folder / "answers").write_text("".join(f"{answer}\n" for answer in answers))
    for name, text in (("kubectl", KUBECTL), ("sleep", "#!/bin/sh\n")):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    (box,) = the("CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    environment = {
        **os.environ,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "ANSWERS": str(folder / "answers"),
        "VERDICT": verdict,
    }
    return subprocess.run(
        [*box["command"], *box["args"]], env=environment, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("stage", LAST_STAGES)
def test_the_wait_ends_with_every_last_stage(tmp_path: Path, stage: str) -> None:
    ended = night(tmp_path, ["new", "Initializing", "Running", stage], "FAILED")
    assert ended.returncode == 1
    assert ended.stdout.splitlines()[-1].endswith(f"{stage}, job FAILED")


def test_a_run_that_succeeded_succeeds(tmp_path: Path) -> None:
    assert night(tmp_path, ["Running", "Complete"], "SUCCEEDED").returncode == 0


def test_a_retry_is_no_end(tmp_path: Path) -> None:
    answers = ["Running", "Retrying", "new", "Running", "Complete"]
    assert night(tmp_path, answers, "SUCCEEDED").returncode == 0


def test_a_run_that_never_started_fails(tmp_path: Path) -> None:
    ended = night(tmp_path, ["ValidationFailed"], "")
    assert ended.returncode == 1
    assert "never started" in ended.stdout


def test_one_missing_answer_does_not_end_the_wait(tmp_path: Path) -> None:
    answers = ["Running", "error", "Running", "error", "error", "Complete"]
    assert night(tmp_path, answers, "SUCCEEDED").returncode == 0


def test_an_api_server_that_is_gone_ends_the_wait_and_says_so(tmp_path: Path) -> None:
    ended = night(tmp_path, ["Running"], "SUCCEEDED")
    assert ended.returncode == 1
    assert "no answer in 20 tries" in ended.stdout
