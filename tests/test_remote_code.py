"""Nothing that is loaded by name or folder may bring code of its own: a rule over the source."""

import ast
from pathlib import Path

import pytest

import conceptprune

ROOT = Path(conceptprune.__file__).parents[1]
LOADERS = {"from_pretrained"}
FILES = [path for part in ("conceptprune", "pipelines") for path in (ROOT / part).rglob("*.py")]


def calls(path: Path) -> list[ast.Call]:
    return [
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in LOADERS
    ]


LOADING = [path for path in FILES if calls(path)]


def test_there_are_calls_to_look_at() -> None:
    assert len(LOADING) >= 5


@pytest.mark.parametrize("path", LOADING, ids=lambda path: path.stem)
def test_every_load_refuses_remote_code(path: Path) -> None:
    for call in calls(path):
        said = {keyword.arg: keyword.value for keyword in call.keywords}
        refusal = said.get("trust_remote_code")
        assert isinstance(refusal, ast.Constant), f"{path}:{call.lineno}"
        assert refusal.value is False, f"{path}:{call.lineno}"
