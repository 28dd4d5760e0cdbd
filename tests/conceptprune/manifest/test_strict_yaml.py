"""Both parsers of YAML give one document, and what is wrong is said in the same words by either."""

import pytest

from conceptprune.manifest import strict_yaml
from conceptprune.manifest.strict_yaml import Document, PlainYamlError, read_yaml

TEXT = """\
# comment
version: 1
name: "quoted"
plain: word   # trailing
flow: {a: 1e-3, b: [yes, 0x10, 010, 2026-01-01, ~], 'c d': -7}
block:
  - |
    several
    lines
  - >-
    folded
    text
  - é 🎨
  - 'single ''quoted'''
again: 1
again: 2
empty:
"""

WRONG = [
    "a: [1",
    "a: &x 1",
    "a: *x",
    "a: !!python/object x",
    "a: 1\n--- \nb: 2",
    "? [a]\n: 1",
    "a: '\x01'",
    'a: "\\UFFFFFFFF"',
    "a:\n\t- b",
    "[" * 20 + "]" * 20,
    "a: 'open",
]


@pytest.fixture(params=[True, False], ids=["libyaml", "pyyaml"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param and not strict_yaml.HAS_LIBYAML:
        pytest.skip("this PyYAML is built without libyaml")
    monkeypatch.setattr(strict_yaml, "HAS_LIBYAML", request.param)


def read_by(text: str, libyaml: bool, monkeypatch: pytest.MonkeyPatch) -> Document | str:
    monkeypatch.setattr(strict_yaml, "HAS_LIBYAML", libyaml)
    try:
        return read_yaml(text)
    except PlainYamlError as error:
        return f"{error.line}: {error.found}; {error.allowed}"


@pytest.mark.skipif(not strict_yaml.HAS_LIBYAML, reason="PyYAML is built without libyaml")
@pytest.mark.parametrize("text", [TEXT, "", "a", *WRONG])
def test_libyaml_and_pyyaml_read_the_same_data_lines_and_spellings(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (read_by(text, libyaml, monkeypatch) for libyaml in (True, False))
    assert first == second
    assert isinstance(first, str) == (text in WRONG)


@pytest.mark.usefixtures("parser")
def test_a_value_keeps_its_line_and_the_spelling_it_had_without_quotes() -> None:
    found = read_yaml(TEXT)
    assert found.data["flow"]["a"] == 0.001
    assert found.lines["flow", "b", 2] == 5
    assert found.unquoted["flow", "b", 0] == "yes"
    assert ("name",) not in found.unquoted
    assert found.repeated_keys == [(("again",), 16, 15)]
