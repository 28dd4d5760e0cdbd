"""The Dockerfile: read as text, as it was not built here."""

import json
import re
import shlex
import tomllib
from pathlib import Path

import ray
import yaml
from packaging.requirements import Requirement

from cluster.sbom import bill_of_materials

ROOT = Path(__file__).parents[2]
FILE = ROOT / "cluster" / "Dockerfile"
TEXT = FILE.read_text(encoding="utf-8")
INSTRUCTIONS = {"FROM", "RUN", "WORKDIR", "COPY", "ENV", "USER"}


def instructions() -> list[tuple[str, list[str]]]:
    """(instruction, its words); continued lines are joined."""
    lines = re.sub(r"\\\n", " ", TEXT).splitlines()
    words = [shlex.split(line) for line in lines if line.strip() and not line.startswith("#")]
    return [(first, rest) for first, *rest in words]


def arguments(name: str) -> list[list[str]]:
    return [words for instruction, words in instructions() if instruction == name]


def test_it_parses_and_has_no_surprises() -> None:
    names = [name for name, _ in instructions()]
    assert names[0] == "FROM"
    assert set(names) == INSTRUCTIONS


def test_what_it_builds_on_is_pinned() -> None:
    ((base,),) = arguments("FROM")
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+@sha256:[0-9a-f]{64}", base)
    hashed, itself = [words for words in arguments("RUN") if words[0] == "pip"]
    assert hashed[-3:] == ["--require-hashes", "--requirement", "cluster/requirements.txt"]
    assert {"--no-deps", "--no-build-isolation", "."} <= set(itself)
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert f"ray=={ray.__version__}\n" in constraints


def test_every_requirement_of_the_image_has_hashes_and_the_version_that_ci_tests() -> None:
    text = (ROOT / "cluster/requirements.txt").read_text(encoding="utf-8")
    entries = re.findall(
        r"^([\w.-]+)==(\S+) \\\n((?:    --hash=sha256:[0-9a-f]{64}.*\n)+)", text, re.M
    )
    pinned = {plain(name): version for name, version, _ in entries}
    assert len(pinned) == len(re.findall(r"^\w", text, re.M))
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    tested = dict(line.split("==") for line in lines if "==" in line)
    tested = {plain(name): version for name, version in tested.items()}
    assert {name: tested.get(name, version) for name, version in pinned.items()} == pinned
    # The rest is what torch's wheel of PyPI brings: CUDA, which no machine of CI has.
    beside = {name for name in pinned if name not in tested}
    assert {name for name in beside if not name.startswith(("nvidia-", "cuda-", "triton"))} == set()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [*extras["dependencies"], *extras["optional-dependencies"]["batch"], "setuptools"]
    assert {plain(Requirement(line).name) for line in needed} <= pinned.keys()


def test_the_bill_of_materials_names_every_package_with_its_version_and_licence() -> None:
    document = json.loads(json.dumps(bill_of_materials()))
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    assert document["metadata"]["component"]["name"] == "conceptprune"
    parts = {part["name"]: part for part in document["components"]}
    assert parts["ray"]["purl"] == f"pkg:pypi/ray@{ray.__version__}"
    assert {"torch", "diffusers", "pyarrow", "pydantic"} <= parts.keys()
    assert parts["diffusers"]["licenses"]
    refs = [part["bom-ref"] for part in (document["metadata"]["component"], *parts.values())]
    assert len(set(refs)) == len(refs)
    needs = {each["ref"]: each["dependsOn"] for each in document["dependencies"]}
    assert parts["torch"]["bom-ref"] in needs[document["metadata"]["component"]["bom-ref"]]
    assert {ref for each in needs.values() for ref in each} <= set(refs)
    assert bill_of_materials() == document


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_it_copies_what_exists_and_all_that_is_ignored_but_for_it() -> None:
    sources = {source for *sources, _ in arguments("COPY") for source in sources}
    assert {source for source in sources if not (ROOT / source).exists()} == set()
    ignore = (ROOT / "cluster" / "Dockerfile.dockerignore").read_text(encoding="utf-8")
    assert set(re.findall(r"^!(.+)$", ignore, flags=re.MULTILINE)) == sources
    assert {"conceptprune", "pipelines", "manifests", "cluster/requirements.txt"} <= sources


def test_it_runs_as_the_user_of_the_manifests_and_holds_no_credentials() -> None:
    assert arguments("USER")[-1:] == [["10001:10001"]]
    job = yaml.safe_load((ROOT / "cluster/kuberay/rayjob.yaml").read_text(encoding="utf-8"))
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    assert head["securityContext"]["runAsUser"] == 10001
    variables = {word.partition("=")[0] for words in arguments("ENV") for word in words}
    assert variables == {"PYTHONUNBUFFERED", "RAY_AUTH_MODE", "OMP_NUM_THREADS"}
