"""What `pip install` gives: the library alone, or with the jobs; and under which names.

Both are built as a user's pip builds them and looked at in fresh environments.
"""

import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

import conceptprune
from pipelines.__main__ import NEEDED
from tests.support.environments import build_wheel, environment_with

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FOLDERS = {"conceptprune": "conceptprune", "conceptprune_pipelines": "pipelines"}
"""By the name under which they are installed."""

# Half a minute of computing, which a busy machine may take many minutes for.
pytestmark = pytest.mark.timeout(1800)

IMPORT_ALL = """
import importlib, importlib.util, json, pkgutil, runpy, sys
packages, without, others, then = map(json.loads, sys.argv[1:])
counts = []
for package in packages:
    found = importlib.import_module(package)
    names = [module.name for module in pkgutil.walk_packages(found.__path__, package + ".")]
    mine = [name for name in names if not any(name.startswith(each) for each in without)]
    for name in mine:
        importlib.import_module(name)
    counts.append(len(mine))
print(json.dumps([counts, [name for name in others if importlib.util.find_spec(name)]]), flush=True)
if then:
    sys.argv[1:] = then[1:]
    runpy.run_module(then[0], run_name="__main__", alter_sys=True)
"""
"""Imports every module of some packages, without some, in one process: to start one takes seconds.

Says how many there were of each, and which of other packages could be imported. Then it does what
`python -m` does with some words, if there are any.
"""
TRAINING = "conceptprune.studio.training"
"""Has an extra of its own."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Of a copy: builds leave folders behind.
    copy = tmp_path_factory.mktemp("source")
    for folder in FOLDERS.values():
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, copy / folder, ignore=ignore)
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, copy)
    return build_wheel(copy, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def library(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environment_with(wheel, tmp_path_factory.mktemp("library"), without=NEEDED)


@pytest.fixture(scope="module")
def batch(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environment_with(wheel, tmp_path_factory.mktemp("batch"), "batch", "studio-training")


def run(program: Path, *words: str, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        # Nothing of this clone: neither its folder nor PYTHONPATH.
        [str(program), *words],
        cwd=cwd,
        # Ray runs workers at 15: where other programs are busy, they would hardly run at all.
        env={"PATH": "/usr/bin:/bin", "RAY_worker_niceness": "0"},
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def num_modules(folder: Path) -> int:
    return len(
        [path for path in folder.rglob("*.py") if path.parent != folder or path.stem != "__init__"]
    )


def import_all(
    program: Path,
    *packages: str,
    cwd: Path,
    without: str = "",
    looking_for: Sequence[str] = (),
    then: Sequence[str] = (),
) -> tuple[Any, Any, str]:
    """See `IMPORT_ALL`; the last is all that was printed."""
    words = [list(packages), [without] if without else [], list(looking_for), list(then)]
    said = run(program, "-c", IMPORT_ALL, *map(json.dumps, words), cwd=cwd).stdout
    (line,) = [line for line in said.splitlines() if line.startswith("[[")]
    return *json.loads(line), said


def test_the_library_imports_without_anything_of_the_jobs(library: Path, tmp_path: Path) -> None:
    names = (*NEEDED, "pipelines", "conceptprune_pipelines")
    counts, found, _ = import_all(
        library / "python", "conceptprune", without=TRAINING, looking_for=names, cwd=tmp_path
    )
    source = ROOT / "conceptprune"
    of_training = 1 + num_modules(source / "studio/training")
    assert counts == [num_modules(source) - of_training]
    assert found == ["conceptprune_pipelines"]


def test_the_command_of_the_library_alone_says_what_to_install(
    library: Path, tmp_path: Path
) -> None:
    for words in (["validate", "m.yaml"], ["--help"]):
        said = run(library / "conceptprune", *words, cwd=tmp_path, code=2)
        assert said.stdout == ""
        assert said.stderr.count("\n") == 1
        assert ", ".join(NEEDED) in said.stderr
        assert "pip install 'conceptprune[batch]'" in said.stderr


@pytest.fixture(scope="module")
def erased(batch: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a manifest is, and the store of its job."""
    folder = tmp_path_factory.mktemp("erased")
    manifest = {
        "version": 1,
        "model": {"builtin": "studio"},
        "fillers": {"style": ["cat"]},
        "concepts": [{"name": "vorla brint", "kind": "style"}],
        "collection": {"steps": 2, "tau": 1, "dtype": "float32", "device": "cpu"},
        "compute": {"actors": 1},
    }
    (folder / "m.yaml").write_text(yaml.safe_dump(manifest), encoding="utf-8")
    run(batch / "conceptprune", "erase", "m.yaml", "--store", "store", cwd=folder)
    return folder


def test_an_installed_command_runs_a_job_on_ray_outside_of_any_clone(erased: Path) -> None:
    assert list((erased / "store").glob("objects/mask/*/*.safetensors"))


def test_with_the_extras_their_modules_import_and_a_job_goes_on_as_a_module(
    batch: Path, erased: Path
) -> None:
    packages = {"conceptprune_pipelines": "pipelines", TRAINING: "conceptprune/studio/training"}
    module = ("conceptprune_pipelines.erase", "m.yaml", "--store", "store")
    counts, _, said = import_all(batch / "python", *packages, cwd=erased, then=module)
    assert counts == [num_modules(ROOT / folder) for folder in packages.values()]
    assert "nothing to compute" in said


def test_every_package_is_installed() -> None:
    found = {
        ".".join((name, *path.parent.relative_to(ROOT / folder).parts))
        for name, folder in FOLDERS.items()
        for path in (ROOT / folder).rglob("__init__.py")
    }
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == found
    assert PROJECT["tool"]["setuptools"]["package-dir"] == FOLDERS


def test_the_command_looks_for_all_that_the_extra_brings() -> None:
    extra = PROJECT["project"]["optional-dependencies"]["batch"]
    assert {Requirement(line).name for line in extra} == set(NEEDED)
    needed = {Requirement(line).name for line in PROJECT["project"]["dependencies"]}
    assert needed.isdisjoint(NEEDED)


def test_what_the_library_offers_is_there() -> None:
    for name in conceptprune.__all__:
        assert getattr(conceptprune, name).__module__.startswith("conceptprune")
    assert set(conceptprune.__all__) <= set(dir(conceptprune))


def test_the_verbs_are_found_without_an_import_of_their_own() -> None:
    code = "import conceptprune; print('diffusers' in dir(conceptprune), end=' '); "
    code += "print(conceptprune.diffusers.delete_masks.__name__)"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, check=True
    )
    assert ran.stdout.split() == ["True", "delete_masks"]
