"""What `submit` sends: each command with all that it names, or nothing at all."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

import pipelines
from conceptprune.errors import UserError
from pipelines.cli import main
from pipelines.submit.submission import COMMANDS, Command, Submission, command_and_file
from pipelines.submit.upload import stage

STORE = "s3://bucket/store"
MANIFEST = {
    "version": 1,
    "model": {"builtin": "studio"},
    "concepts": [{"name": "Ada Bell", "kind": "style"}],
}
SUITE = {
    "version": 1,
    "name": "mine",
    "model": {"builtin": "studio"},
    "groups": {"erased": [{"name": "nudity", "csv": "../data/prompts.csv"}]},
    "scorers": [{"scorer": "studio-judge"}],
}
MASK = "mask:masks/ada.safetensors"
HERE = ("--files-from", ".")
"""Prompts of the suite are not beside it, and in what travels."""
CODE = ("conceptprune", pipelines.__name__)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a suite and what it names; the tests are in it."""
    folder = tmp_path / "work"
    write(folder / "manifests" / "m.yaml", MANIFEST)
    write(folder / "suites" / "s.yaml", SUITE)
    put(folder / "data" / "prompts.csv", "prompt\na portrait\n")
    put(folder / "masks" / "ada.safetensors", "a mask")
    put(folder / "exports" / "ada" / "model_index.json", "{}")
    monkeypatch.chdir(folder)
    return folder


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def write(path: Path, content: dict[str, Any], **changes: Any) -> Path:
    # Through JSON, for values that occur twice would become aliases, which are refused.
    return put(path, yaml.safe_dump(json.loads(json.dumps({**content, **changes}))))


def submission(
    *of: str,
    file: str = "suites/s.yaml",
    command: Command = "evaluate",
    store: str = STORE,
    attacks: Sequence[str] = (),
    suite: str | None = None,
    tuning: dict[str, float | str] | None = None,
    log_format: str | None = None,
) -> Submission:
    return Submission.of(
        Path(file),
        store,
        Path(),
        log_format,
        command=command,
        of=of,
        attacks=attacks,
        suite=suite and Path(suite),
        tuning=tuning,
    )


def tuning(**options: float | str) -> Submission:
    return submission(
        file="manifests/m.yaml", command="tune", suite="suites/s.yaml", tuning=options
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


OUT_OF_REACH = [
    ({"model": {"folder": "../../outside"}}, r"s\.yaml: folder: \.\./\.\./outside is not in"),
    ({"model": {"folder": "../models/none"}}, r"s\.yaml: folder: \.\./models/none is not there"),
    ({"model": {"folder": "../venv/model"}}, r"venv/model/model_index.json lies in, or is, venv"),
    (
        {"groups": {"general": [{"name": "x", "file": "../../outside/prompts.txt"}]}},
        r"a folder that --files-from names: \.\./\.\./outside",
    ),
    (
        {"scorers": [{"scorer": "kid", "reference": "../../outside"}]},
        r"s\.yaml: reference: .* is not in --working-dir",
    ),
    (
        {"scorers": [{"scorer": "clip-similarity", "model": {"folder": "../../outside"}}]},
        r"s\.yaml: folder: .* is not in --working-dir",
    ),
    (
        {
            "groups": {
                "erased": [
                    {
                        "concept": {
                            "name": "x",
                            "kind": "memorised",
                            "captions": {"file": "../../outside/prompts.txt"},
                        }
                    }
                ]
            }
        },
        r"a folder that --files-from names: \.\./\.\./outside",
    ),
]


@pytest.mark.parametrize(("changes", "message"), OUT_OF_REACH)
def test_what_a_suite_names_must_travel_with_it(
    work: Path, changes: dict[str, Any], message: str
) -> None:
    put(work.parent / "outside" / "prompts.txt", "a portrait")
    put(work / "venv" / "model" / "model_index.json", "{}")
    write(work / "suites" / "s.yaml", SUITE, **changes)
    with pytest.raises(UserError, match=message) as refused:
        submission("base")
    assert re.search("give an absolute path that every node has|--files-from", str(refused.value))


@pytest.mark.parametrize("field", ["concepts", "retain"])
def test_a_list_that_travels_from_beside_the_manifests_folder_is_allowed_in_the_job(
    work: Path, field: str
) -> None:
    put(work / "lists" / "l.csv", "name,kind\nAda,style\n")
    write(work / "manifests" / "m.yaml", MANIFEST, **{field: {"file": "../lists/l.csv"}})
    sent = Submission.of(Path("manifests/m.yaml"), STORE, Path())
    assert "lists/l.csv" in sent.files
    assert "--files-from ." in sent.entrypoint


def test_what_a_manifest_names_must_travel_with_it(work: Path) -> None:
    write(work / "manifests" / "m.yaml", MANIFEST, model={"folder": "../../outside"})
    with pytest.raises(UserError, match=r"m\.yaml: folder: .* is not in --working-dir"):
        submission(file="manifests/m.yaml", command="erase")
    write(work / "manifests" / "m.yaml", MANIFEST, model={"folder": "/shared/model"})
    assert submission(file="manifests/m.yaml", command="erase").run


def test_what_is_named_travels_whatever_an_ignore_file_says(work: Path) -> None:
    put(work / ".gitignore", "*.csv\n/exports/\nruns/\n")
    put(work / ".rayignore", "*.safetensors\n")
    put(work / "exports" / "ada" / "unet" / "x.safetensors", "weights")
    put(work / "runs" / "ada.safetensors", "a mask")
    sent = submission(MASK, "folder:exports/ada", "mask:runs/ada.safetensors")
    assert {
        "suites/s.yaml",
        "data/prompts.csv",
        "masks/ada.safetensors",
        "exports/ada/model_index.json",
        "exports/ada/unet/x.safetensors",
        "runs/ada.safetensors",
    } == named(sent)
    # By an absolute path that lies elsewhere it is what every node has.
    assert named(submission("mask:/shared/ada.safetensors")) == {
        "suites/s.yaml",
        "data/prompts.csv",
    }


def named(submission: Submission) -> set[str]:
    """What travels beside the code."""
    return {path for path in submission.files if path.split("/")[0] not in CODE}


def test_of_a_folder_only_what_a_job_reads_travels(work: Path) -> None:
    for name in (
        "README.md",
        "unet/x.bin",
        "onnx/x.onnx",
        ".git/config",
        ".env",
        "unet/.aws/x.json",
    ):
        put(work / "exports" / "ada" / name, "planted-secret")
    put(work / "exports" / "ada" / "unet" / "config.json", "{}")
    assert named(submission("folder:exports/ada")) == {
        "suites/s.yaml",
        "data/prompts.csv",
        "exports/ada/model_index.json",
        "exports/ada/unet/config.json",
    }


BESIDE = (
    ".env",
    ".env.production",
    ".aws/credentials",
    ".kube/config",
    ".git/config",
    "kubeconfig",
    "id_rsa",
    "server.pem",
    "venv/lib/x.py",
    ".venv/lib/x.py",
    "notes.txt",
    "conceptprune.log",
    "data/other.csv",
    "core.1234",
)


def test_what_lies_beside_it_does_not_travel(work: Path) -> None:
    for name in BESIDE:
        put(work / name, "planted-secret")
    sent = submission("base", MASK)
    assert named(sent) == {"suites/s.yaml", "data/prompts.csv", "masks/ada.safetensors"}
    assert not any("planted-secret" in here.read_text("latin-1") for here in sent.files.values())


@pytest.mark.parametrize(
    "path",
    [
        ".env.yaml",
        "venv/m.yaml",
        "a/__pycache__/m.yaml",
        ".venv/m.yaml",
        ".git/m.yaml",
        ".aws/m.yaml",
        "kubeconfig.yaml",
    ],
)
def test_what_never_travels_is_refused_also_as_the_manifest(work: Path, path: str) -> None:
    write(work / path, MANIFEST)
    with pytest.raises(UserError, match=r"is not uploaded: .* which never is; move it elsewhere"):
        submission(file=path, command="erase")


def test_a_secret_in_a_folder_that_is_named_is_refused_and_not_sent(work: Path) -> None:
    put(work / "exports" / "ada" / "credentials.json", "planted-secret")
    with pytest.raises(UserError, match=r"exports/ada/credentials\.json lies in, or is") as refused:
        submission("folder:exports/ada")
    assert "planted-secret" not in str(refused.value)


def test_code_and_what_is_named_are_all_that_travels_from_this_repository() -> None:
    root = Path(__file__).parents[3]
    sent = Submission.of(root / "manifests" / "demo.yaml", STORE, root)
    lists = {f"manifests/gallery/{name}.txt" for name in ("erased", "kept")}
    folders = tuple(f"benchmarks/gallery/models/{name}/" for name in ("unet", "judge"))
    beside = named(sent) - {"manifests/demo.yaml", *lists}
    assert len(beside) < len(named(sent)) - len(lists)
    assert all(path.startswith(folders) for path in beside)
    assert {folder for folder in folders for path in beside if path.startswith(folder)} == {
        *folders
    }
    assert {path.split("/")[0] for path in sent.files} == {"benchmarks", "manifests", *CODE}
    assert not any(path.endswith(".pyc") for path in sent.files)


def test_the_installed_packages_travel_where_the_working_directory_has_none(work: Path) -> None:
    sent = submission("base")
    assert {f"{CODE[1]}/evaluate.py", "conceptprune/store/s3.py", "conceptprune/py.typed"} <= set(
        sent.files
    )
    # One of both does not make it a copy of the code.
    put(work / CODE[1] / "__init__.py", "raise ImportError")
    assert submission("base").files == sent.files
    put(work / "conceptprune" / "__init__.py", "mine")
    assert submission("base").files["conceptprune/__init__.py"] == (
        work.resolve() / "conceptprune" / "__init__.py"
    )


def test_what_travels_runs_by_itself(work: Path, tmp_path: Path) -> None:
    sent = submission("base")
    job = tmp_path / "job"
    stage(sent.files, job)
    ran = subprocess.run(
        [sys.executable, "-c", f"import {CODE[1]}.cli, conceptprune; print(conceptprune.__file__)"],
        cwd=job,
        env={**os.environ, "PYTHONPATH": ""},
        text=True,
        capture_output=True,
        check=False,
    )
    assert ran.stdout.strip() == str(job / "conceptprune" / "__init__.py"), ran.stderr


def test_more_than_ray_takes_is_refused_with_its_size_and_its_largest_part(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(work / "exports" / "ada" / "unet" / "small.safetensors", "")
    with (work / "exports" / "ada" / "unet" / "x.safetensors").open("wb") as large:
        large.truncate(110 * 2**20)
    # Not even read: it may be much larger than this.
    with monkeypatch.context() as unread:
        unread.setattr("pipelines.submit.upload.digest_file", None)
        with pytest.raises(UserError) as refused:
            submission(MASK, "folder:exports/ada")
    for part in ("Ray takes 100 MiB", "--of folder:exports/ada with 110 MiB", "model: {uri: ...}"):
        assert part in str(refused.value)
    shutil.move(work / "exports" / "ada", work / "model")
    write(work / "manifests" / "m.yaml", MANIFEST, model={"folder": "../model"})
    with pytest.raises(UserError, match=r"the largest part is \.\./model with 110 MiB"):
        submission(file="manifests/m.yaml", command="erase")
    # What lies beside it counts for nothing.
    write(work / "manifests" / "m.yaml", MANIFEST)
    assert submission(file="manifests/m.yaml", command="erase").run


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


def test_the_suite_that_chooses_travels_with_all_that_it_names(work: Path) -> None:
    assert named(tuning()) == {"manifests/m.yaml", "suites/s.yaml", "data/prompts.csv"}
    first = tuning().run
    others = {tuning(gone=0.2).run, tuning(values="0.01").run}
    put(work / "data" / "prompts.csv", "prompt\na landscape\n")
    others.add(tuning().run)
    assert len(others - {first}) == 3
    write(work / "suites" / "s.yaml", SUITE, model={"folder": "../../outside"})
    with pytest.raises(UserError, match=r"s\.yaml: folder: \.\./\.\./outside is not in"):
        tuning()


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
