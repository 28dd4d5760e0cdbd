"""The command line's surface: its commands and options, and what bad input gets."""

import re
from pathlib import Path

import pytest
import typer

from pipelines.cli import app, main

SURFACE = {
    "validate": [],
    "plan": ["--calibrate", "--store"],
    "erase": ["--log-format", "--store", "--verify"],
    "status": [],
    "export": ["--alpha", "--as", "--fraction", "--fuse", "--model", "--out", "--run", "--seal"],
    "gc": ["--forget", "--grace", "--yes"],
    "report": ["--out", "--run"],
    "sweep": ["--log-format", "--store"],
    "submit": ["--address", "--attack", "--log-format", "--of", "--store", "--working-dir"],
    "evaluate": ["--log-format", "--of", "--store"],
    "attack": ["--attack", "--log-format", "--of", "--store"],
}


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    assert isinstance(stop.value.code, int)
    return stop.value.code


def test_commands_and_options_are_the_documented_ones() -> None:
    """Scripts depend on these: a change here is a change for every user."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    surface = {
        name: sorted(
            option for param in command.params for option in param.opts if option.startswith("--")
        )
        for name, command in commands.items()
    }
    groups = {"baseline"}
    assert {name: surface[name] for name in surface.keys() - groups} == SURFACE


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["validate", "missing.yaml"], "missing.yaml"),
        (["plan", "missing.yaml"], "missing.yaml"),
        (["erase", "missing.yaml", "--store", "s"], "missing.yaml"),
        (["status", "nowhere"], "nowhere"),
        (["report", "nowhere"], "nowhere"),
        (["export", "nowhere", "Monet", "--out", "x"], "nowhere"),
        (["erase", "missing.yaml"], "--store"),
    ],
)
def test_bad_input_exits_2_with_one_message_and_writes_nothing(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown
    assert list(tmp_path.iterdir()) == []


def test_an_error_that_looks_like_markup_is_printed_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "m.yaml"
    manifest.write_text(
        "version: 1\nmodel: {builtin: studio}\nconcepts: [{name: '[red]x', kind: stile}]\n",
        encoding="utf-8",
    )
    assert run("validate", str(manifest)) == 2
    shown = capsys.readouterr().err
    assert re.search(r"m\.yaml:3: concepts\[0\]\.kind", shown)
    assert "nearest: style" in shown
