"""What `submit` runs: each command with its own arguments, under an id that follows them."""

import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from conceptprune.errors import UserError
from pipelines.cli import main
from pipelines.submit.submission import COMMANDS, Command, Submission, command_and_file
from tests.pipelines.submit.sent import (
    HERE,
    MANIFEST,
    MASK,
    STORE,
    SUITE,
    put,
    submission,
    tuning,
    write,
)


def words(submission: Submission) -> list[str]:
    return shlex.split(submission.entrypoint)


def test_each_command_runs_its_own_program_with_its_own_arguments(work: Path) -> None:
    write(work / "manifests" / "m.yaml", MANIFEST, sweep={"sparsity": [0.01, 0.02]})
    sent = {
        "erase": submission(file="manifests/m.yaml", command="erase"),
        "sweep": submission(file="manifests/m.yaml", command="sweep"),
        "tune": tuning(gone=0.1, values="0.01,0.02"),
        "evaluate": submission("base", MASK),
        "attack": submission(MASK, command="attack", attacks=["refill-amplify", "none"]),
    }
    manifest, suite = (["manifests/m.yaml", "--store", STORE], ["suites/s.yaml", "--store", STORE])
    assert {name: words(one) for name, one in sent.items()} == {
        "erase": ["python", "-m", "pipelines.erase", *manifest],
        "sweep": ["python", "-m", "pipelines.sweep", *manifest],
        "tune": [
            *("python", "-m", "pipelines.tune", "manifests/m.yaml", *suite),
            *("--gone", "0.1", "--values", "0.01,0.02", *HERE),
        ],
        "evaluate": [
            "python",
            "-m",
            "pipelines.evaluate",
            *suite,
            "--of",
            "base",
            "--of",
            MASK,
            *HERE,
        ],
        "attack": [
            *("python", "-m", "pipelines.attack", *suite, "--of", MASK),
            *("--attack", "refill-amplify", "--attack", "none", *HERE),
        ],
    }
    assert set(sent) == set(COMMANDS)
    assert len({one.run for one in sent.values()}) == len(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_submitted_is_a_program(command: str) -> None:
    source = Path(__file__).parents[3].joinpath("pipelines", f"{command}.py").read_text("utf-8")
    assert f'main(["{command}", *sys.argv[1:]])' in source


def test_a_checkpoint_is_named_as_the_job_finds_it(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = {
        "base": "base",
        MASK: MASK,
        f"ours=mask:{work}/masks/ada.safetensors": f"ours={MASK}",
        "a b=delta:masks/../masks/ada.safetensors": "a b=delta:masks/ada.safetensors",
        "folder:exports/ada/": "folder:exports/ada",
        # A concept of the store's newest run, and what every node has.
        "mask:Ada Bell": "mask:Ada Bell",
        "mask:/shared/ada.safetensors": "mask:/shared/ada.safetensors",
        f"folder:{tmp_path}": f"folder:{tmp_path}",
    }
    assert words(submission(*of))[6:-2] == [word for one in of.values() for word in ("--of", one)]
    monkeypatch.chdir(work / "masks")
    inside = Submission.of(
        Path("../suites/s.yaml"), STORE, work, command="evaluate", of=["mask:ada.safetensors"]
    )
    assert words(inside)[3:] == ["suites/s.yaml", "--store", STORE, "--of", MASK, *HERE]


def test_hostile_names_reach_the_job_as_one_word_each(work: Path) -> None:
    names = ["mask:$(touch x)", "it's;ls=base", "mask:masks/*&| `id`.safetensors"]
    put(work / "masks" / "*&| `id`.safetensors", "a mask")
    entrypoint = submission(*names).entrypoint
    echo = entrypoint.replace("python -m pipelines.evaluate", r"printf '%s\n'", 1)
    shown = subprocess.run(["sh", "-c", echo], text=True, capture_output=True, check=True)
    asked = [word for name in names for word in ("--of", name)]
    assert shown.stdout.splitlines()[3:] == [*asked, *HERE]
    assert not (work / "x").exists()


def test_the_id_follows_all_that_is_run_and_nothing_else(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> str:
        return submission("base", MASK).run

    first = run()
    assert submission("base", MASK, log_format="json").run == first
    write(work / "suites" / "s.yaml", SUITE, compute={"actors": 64})
    assert run() == first
    shutil.copytree(work, tmp_path / "another" / "copy")
    monkeypatch.chdir(tmp_path / "another" / "copy")
    assert run() == first
    others = {
        submission("base").run,
        submission("base", MASK, store="s3://bucket/other").run,
        submission("base", MASK, command="attack", attacks=["none"]).run,
        submission("base", MASK, command="attack", attacks=["refill-amplify"]).run,
    }
    put(Path("masks/ada.safetensors"), "another mask")
    others.add(run())
    put(Path("data/prompts.csv"), "prompt\na landscape\n")
    others.add(run())
    write(Path("suites/s.yaml"), SUITE, generation={"steps": 7})
    others.add(run())
    assert len(others - {first}) == 7


@pytest.mark.parametrize(
    ("of", "message"),
    [
        ([], "--of: name at least one"),
        (["mask"], "--of mask: give "),
        (["mask:masks/none.safetensors"], "masks/none.safetensors is not there"),
        (["delta:../outside.safetensors"], "is not in --working-dir"),
        (["folder:__pycache__/x"], "not uploaded: __pycache__/x/model_index.json lies in"),
        (["folder:s3://bucket/x"], "a file or folder, not a URI"),
    ],
)
def test_a_checkpoint_out_of_reach_is_refused(work: Path, of: list[str], message: str) -> None:
    put(work.parent / "outside.safetensors", "a delta")
    put(work / "__pycache__" / "x" / "model_index.json", "{}")
    with pytest.raises(UserError, match=message):
        submission(*of)


def test_no_credential_in_a_checkpoint_is_sent_or_shown(work: Path) -> None:
    with pytest.raises(UserError, match="--of: no credentials in a URL") as refused:
        submission("folder:s3://key:planted-secret@bucket/x")
    assert "planted-secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("command", "of", "attacks", "message"),
    [
        ("erase", ["base"], [], "--of is for evaluate and attack, and this is erase"),
        ("evaluate", ["base"], ["none"], "--attack is for attack, and this is evaluate"),
        ("attack", ["base"], [], "--attack: name at least one of"),
        ("attack", ["base"], ["refil-random"], "nearest: refill-random"),
        ("sweep", [], [], "has no section sweep"),
    ],
)
def test_arguments_that_a_command_does_not_take_are_refused(
    work: Path, command: Command, of: list[str], attacks: list[str], message: str
) -> None:
    file = "suites/s.yaml" if of else "manifests/m.yaml"
    with pytest.raises(UserError, match=message):
        submission(*of, file=file, command=command, attacks=attacks)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"suite": None}, "submit tune: give a manifest, and the suite"),
        ({"command": "erase"}, r"submit erase takes one file, not also suites/s\.yaml"),
        ({"command": "erase", "suite": None}, "--gone is for tune, and this is erase"),
        ({"tuning": {"gone": 1.0}}, "--gone 1: give the share"),
        ({"tuning": {"hold": -1.0}}, "--hold -1: give the share"),
        ({"tuning": {"values": "2"}}, "--values 2: give at most 100 sparsities"),
        ({"suite": "suites/none.yaml"}, r"none\.yaml cannot be read"),
    ],
)
def test_what_tune_does_not_take_is_refused(
    work: Path, wrong: dict[str, Any], message: str
) -> None:
    asked: dict[str, Any] = {"command": "tune", "suite": "suites/s.yaml", "tuning": {"gone": 0.1}}
    with pytest.raises(UserError, match=message):
        submission(file="manifests/m.yaml", **{**asked, **wrong})


def test_one_word_is_a_manifest_and_two_are_a_command_with_its_file(work: Path) -> None:
    assert command_and_file("m.yaml", None) == ("erase", Path("m.yaml"))
    for command in COMMANDS:
        assert command_and_file(command, Path("x.yaml")) == (command, Path("x.yaml"))
    with pytest.raises(UserError, match=r"evalute x\.yaml: no such command"):
        command_and_file("evalute", Path("x.yaml"))
    with pytest.raises(UserError, match="evaluate: no file is given"):
        command_and_file("evaluate", None)
    put(work / "evaluate", "a manifest of that name")
    assert command_and_file("evaluate", None) == ("erase", Path("evaluate"))


def test_the_command_line_refuses_with_one_message_and_exit_code_2(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (
        ["evaluate", "suites/s.yaml", "--of", "mask:masks/none.safetensors"],
        ["attack", "suites/s.yaml", "--of", "base", "--attack", "nothing"],
        ["tune", "manifests/m.yaml", "suites/s.yaml", "--gone", "5"],
    ):
        with pytest.raises(SystemExit) as stop:
            main(["submit", *arguments, "--store", STORE, "--address", "http://127.0.0.1:1"])
        assert stop.value.code == 2
        assert capsys.readouterr().err.startswith("error: --")
