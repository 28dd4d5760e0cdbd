"""The single-machine head of `cluster/`: a real head with token authentication, and real jobs.

The commands are those of the documents.
"""

import re
import secrets
from concurrent.futures import Future
from pathlib import Path

import psutil
import pytest

from conceptprune.evaluation.summary import OBJECT
from conceptprune.store import Store, parquet_to_table
from pipelines.cli import main
from pipelines.records.evaluation import evaluation_records
from pipelines.records.ledger import read_ledger
from tests.cluster.documents import documented, runnable
from tests.end_to_end.head.conftest import ADDRESS, PORT, Head, Ran, Sent, Story, submit
from tests.support.s3_server import SECRET_KEY
from tests.support.sockets import documented as addresses_in_security_md
from tests.support.sockets import listening


def shown(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command that needs no cluster prints; run in this process, which saves a start."""
    with pytest.raises(SystemExit) as stop:
        main(command[1:])
    assert stop.value.code == 0
    return capsys.readouterr().out


def test_the_head_listens_where_security_md_says(head: Head) -> None:
    pid = head.state / f"conceptprune-head-{PORT}.pid"
    found = listening(psutil.Process(int(pid.read_text())))
    assert {"gcs_server", "raylet"} <= {name for name, _ in found}
    where = addresses_in_security_md("cluster/local-head.sh")
    assert {address for _, address in found} == where == {"127.0.0.1"}


# Their jobs begin before it and go on beside it.
@pytest.mark.usefixtures("evaluation", "bad_input")
def test_a_run_is_submitted_left_refused_while_live_stopped_and_gone_on_with(
    head: Head, story: Story, capsys: pytest.CaptureFixture[str]
) -> None:
    run = story.run
    assert f"ray job logs --address {ADDRESS} --follow {run}" in story.left

    assert story.live.returncode == 2
    assert "nothing was submitted" in story.live.stderr
    assert run in story.live.stderr

    assert story.stopped.returncode == 0, story.stopped.stdout + story.stopped.stderr
    assert run in story.listed

    again = story.again
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"submitted {run}-2" in again.stdout
    assert "1/1 concepts" in again.stdout
    opened = Store(story.store)
    (recorded,) = opened.runs()
    assert {row["status"] for row in read_ledger(opened, recorded)} <= {"done", "reused"}
    assert "1/1 concepts" in story.followed.stdout

    ours = {"manifests/demo.yaml": str(story.work / "manifests/demo.yaml")}
    assert "1 concepts to erase" in shown(documented("conceptprune validate", **ours), capsys)
    plan = documented("conceptprune plan", **ours, **{"runs/cluster": story.store})
    assert "nothing to compute" in shown(plan, capsys)
    status = documented("conceptprune status", **{"runs/cluster": story.store})
    assert "a rerun would compute nothing" in shown(status, capsys)

    told = head.ask("/api/jobs/") + head.ask(f"/api/jobs/{run}-2/logs")
    assert "pipelines.erase" in told
    assert head.token not in told
    assert SECRET_KEY not in told


def test_an_evaluation_runs_with_all_that_its_suite_and_checkpoints_name(evaluation: Sent) -> None:
    done = evaluation.ran.result()
    assert done.returncode == 0, done.stdout + done.stderr
    opened = Store(str(evaluation.store))
    (record,) = evaluation_records(opened)
    commit = opened.get("evaluation", record.summary)
    rows = parquet_to_table(opened.load(commit, OBJECT)).to_pylist()
    distance = {row["checkpoint"]: row["value"] for row in rows if row["metric"] == "distance"}
    assert distance.keys() == {"base", "ada"}
    assert distance["base"] == 0 < distance["ada"]


def test_a_job_with_bad_input_is_told_by_its_exit_code_but_not_by_rays_own_command(
    bad_input: tuple[Future[Ran], Future[Ran]],
) -> None:
    plain, verdict = (one.result() for one in bad_input)
    assert verdict.returncode == 2, verdict.stdout + verdict.stderr
    assert "no-model is not a folder on this machine" in verdict.stdout
    assert plain.returncode == 1
    assert "no-model is not a folder on this machine" in plain.stdout


def test_without_the_token_nobody_gets_in(head: Head, work: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text(secrets.token_hex(32), encoding="utf-8")
    store = tmp_path / "store"
    stranger = head.run(submit(store), cwd=work, RAY_AUTH_TOKEN_PATH=str(other))
    assert stranger.returncode == 2
    assert "Invalid authentication token" in stranger.stderr
    assert not store.exists()


def test_a_head_is_not_started_twice(head: Head) -> None:
    assert head.run(documented("bash cluster/local-head.sh start")).returncode == 1


def test_every_documented_command_is_run_here() -> None:
    files = (Path(__file__), Path(__file__).with_name("conftest.py"))
    text = "".join(path.read_text(encoding="utf-8") for path in files)
    run = set(re.findall(r'documented\(\s*"([^"]+)"', text))
    assert [command for command in runnable() if not command.startswith(tuple(run))] == []
