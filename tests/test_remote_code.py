"""Nothing that is loaded may bring code of its own: a rule over the source."""

import ast
import inspect
from functools import cache
from pathlib import Path

from diffusers.loaders.single_file import FromSingleFileMixin

import conceptprune

ROOT = Path(conceptprune.__file__).parents[1]
OURS = ROOT / "conceptprune" / "studio" / "training"
"""The recipe of the shipped model, which loads what it has itself just trained."""

LOADERS = frozenset({"from_pretrained", "from_pipe", "from_single_file", "pipeline"})
OTHERWISE = {
    (
        "conceptprune/models/pipeline_modules.py",
        "getattr(diffusers, scheduler).from_pretrained",
    ): "diffusers' schedulers have no such option",
    (
        "conceptprune/models/components.py",
        "kind.from_pretrained",
    ): "for transformers' classes it is among `how`; see below",
    (
        "conceptprune/models/from_single_file.py",
        "pipeline.from_single_file",
    ): "has no such option: the classes are diffusers' own; see below",
}
"""Loads that pass no such option, each in one place, and why."""


@cache
def calls() -> list[tuple[str, ast.Call]]:
    """All in the source, by file. Not read at import: every process imports these tests."""
    return [
        (path.relative_to(ROOT).as_posix(), node)
        for part in ("conceptprune", "pipelines")
        for path in sorted((ROOT / part).rglob("*.py"))
        if not path.is_relative_to(OURS)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]


def loads() -> list[tuple[str, ast.Call]]:
    return [
        (path, call)
        for path, call in calls()
        if isinstance(call.func, ast.Attribute)
        and call.func.attr in LOADERS
        and (path, ast.unparse(call.func)) not in OTHERWISE
    ]


def test_every_load_refuses_remote_code() -> None:
    silent = []
    for path, call in loads():
        said = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if said.get("trust_remote_code") != "False":
            silent.append(f"{path}:{call.lineno}")
    assert silent == []


def test_the_rule_sees_the_loads() -> None:
    assert len(loads()) >= 6


def test_components_of_transformers_are_told_too() -> None:
    source = (ROOT / "conceptprune" / "models" / "components.py").read_text(encoding="utf-8")
    told = source.index('how["trust_remote_code"] = False')
    assert source.index("def _loaded(") < told < source.index("kind.from_pretrained(")


def test_each_exception_is_of_one_load() -> None:
    found = [
        (path, ast.unparse(call.func))
        for path, call in calls()
        if (path, ast.unparse(call.func)) in OTHERWISE
    ]
    assert sorted(found) == sorted(OTHERWISE)


def test_the_loader_of_single_files_takes_no_code() -> None:
    """Should diffusers give it the option one day, it must be passed."""
    source = inspect.getsource(FromSingleFileMixin.from_single_file.__func__)
    assert "trust_remote_code" not in source


def test_nothing_says_the_opposite() -> None:
    said = [ast.unparse(keyword) for _, call in calls() for keyword in call.keywords]
    assert not [text for text in said if text.startswith("trust_remote_code=True")]
