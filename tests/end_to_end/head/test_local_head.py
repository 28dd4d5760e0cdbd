"""The single-machine head of `cluster/`: a real head with token authentication, and real jobs.

The commands are those of the documents.
"""

import re
import secrets
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml

from conceptprune.evaluation.summary import OBJECT
from conceptprune.masks.layer_mask import LayerMask
from conceptprune.masks.mask import PruningMask
from conceptprune.models.weights import read_layers, weight_digest
from conceptprune.store import Store, parquet_to_table
from pipelines.cli import main
from pipelines.records.evaluation import evaluation_records
from pipelines.records.ledger import read_ledger
from tests.cluster.documents import documented, runnable
from tests.end_to_end.head.conftest import ADDRESS, PORT, Head, Story, submit, write_manifest
from tests.support.networks import save_vision
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
    assert "1/1 concepts" in head.run(documented("ray job logs", JOB=f"{run}-2")).stdout

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


def test_an_evaluation_runs_with_all_that_its_suite_and_checkpoints_name(
    head: Head, tmp_path: Path, tiny_folder: Path
) -> None:
    # Every path is relative, so that the job can have read its own copy only.
    work = tmp_path / "work"
    shutil.copytree(tiny_folder, work / "models" / "tiny")
    save_vision(work / "models" / "vision")
    # Near the end of the network: what a layer in its middle does is less than a level of a pixel.
    layers = [f"up_blocks.3.attentions.{n}.transformer_blocks.0.ff.net.2" for n in range(3)]
    write_mask(work / "masks" / "ada.safetensors", tiny_folder, layers)
    suite = {
        "version": 1,
        "name": "studio",
        "model": {"folder": "../../models/tiny"},
        "groups": {"general": [{"name": "photos", "csv": "prompts.csv"}]},
        "generation": {"steps": 2, "dtype": "float32", "device": "cpu"},
        "scorers": [{"scorer": "perceptual", "features": {"folder": "../../models/vision"}}],
        # What travels is the matter here: the job's own process does the rest.
        "compute": {"actors": 0},
    }
    suites = work / "manifests" / "suites"
    suites.mkdir(parents=True)
    (suites / "studio.yaml").write_text(yaml.safe_dump(suite), encoding="utf-8")
    (suites / "prompts.csv").write_text("prompt,evaluation_seed\na cat,1\na car,2\n")
    store = tmp_path / "store"
    names = {"runs/cluster": str(store), "mask:vorla brint": "ada=mask:masks/ada.safetensors"}
    done = head.run(documented("conceptprune submit evaluate", **names), cwd=work)
    assert done.returncode == 0, done.stdout + done.stderr
    opened = Store(str(store))
    (record,) = evaluation_records(opened)
    commit = opened.get("evaluation", record.summary)
    rows = parquet_to_table(opened.load(commit, OBJECT)).to_pylist()
    distance = {row["checkpoint"]: row["value"] for row in rows if row["metric"] == "distance"}
    assert distance.keys() == {"base", "ada"}
    assert distance["base"] == 0 < distance["ada"]


def write_mask(path: Path, model: Path, layers: list[str]) -> None:
    """A mask of every weight of some layers."""
    weights = read_layers(model, layers, "unet")
    masked = {
        name: LayerMask(
            shape=(weight.shape[0], weight.shape[1]),
            entries=np.arange(weight.numel()),
            weight_digest=weight_digest(weight),
        )
        for name, weight in weights.items()
    }
    mask = PruningMask(concepts=("Ada Bell",), component="unet", layers=masked, provenance={})
    path.parent.mkdir(parents=True)
    path.write_bytes(mask.to_bytes())


def test_a_job_with_bad_input_is_told_by_its_exit_code_but_not_by_rays_own_command(
    head: Head, tmp_path: Path
) -> None:
    # Good in itself, but no machine has the model: only the job can find that out.
    manifest = write_manifest(tmp_path / "work" / "manifest.yaml", tmp_path / "no-model")
    store = tmp_path / "store"
    plain = documented(
        "bash cluster/local-head.sh submit",
        **{"manifests/demo.yaml": str(manifest), "runs/cluster": str(store)},
    )
    with ThreadPoolExecutor() as pool:
        ran = pool.submit(head.run, plain)
        verdict = head.run(submit(store, "manifest.yaml"), cwd=manifest.parent)
    assert verdict.returncode == 2, verdict.stdout + verdict.stderr
    assert "no-model is not a folder on this machine" in verdict.stdout
    assert ran.result().returncode == 1
    assert "no-model is not a folder on this machine" in ran.result().stdout


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
