"""The Dockerfile: read as text, as it was not built here."""

import re
import shlex
from pathlib import Path

import ray
import yaml

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
    (install,) = [words for words in arguments("RUN") if words[0] == "pip"]
    assert install[install.index("--constraint") + 1] == "constraints.txt"
    assert install[-1] == ".[batch]"
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert f"ray=={ray.__version__}\n" in constraints


def test_it_copies_what_exists_and_all_that_is_ignored_but_for_it() -> None:
    sources = {source for *sources, _ in arguments("COPY") for source in sources}
    assert {source for source in sources if not (ROOT / source).exists()} == set()
    ignore = (ROOT / "cluster" / "Dockerfile.dockerignore").read_text(encoding="utf-8")
    assert set(re.findall(r"^!(.+)$", ignore, flags=re.MULTILINE)) == sources
    assert {"conceptprune", "pipelines", "manifests", "constraints.txt"} <= sources


def test_it_runs_as_the_user_of_the_manifests_and_holds_no_credentials() -> None:
    assert arguments("USER")[-1:] == [["10001:10001"]]
    job = yaml.safe_load((ROOT / "cluster/kuberay/rayjob.yaml").read_text(encoding="utf-8"))
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    assert head["securityContext"]["runAsUser"] == 10001
    variables = {word.partition("=")[0] for words in arguments("ENV") for word in words}
    assert variables == {"PYTHONUNBUFFERED", "RAY_AUTH_MODE", "OMP_NUM_THREADS"}
