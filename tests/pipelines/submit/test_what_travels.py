"""What `submit` sends: all that a command names and nothing beside it, or nothing at all."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conceptprune.errors import UserError
from pipelines.submit.submission import Submission
from pipelines.submit.upload import stage
from tests.pipelines.submit.sent import (
    CODE,
    MANIFEST,
    MASK,
    STORE,
    SUITE,
    named,
    put,
    submission,
    tuning,
    write,
)

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
