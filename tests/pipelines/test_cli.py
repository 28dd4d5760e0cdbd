"""The command line's surface: its commands and options, and what bad input gets."""

import re
import signal
from pathlib import Path

import pytest
import typer

from conceptprune import __version__
from pipelines.cli import app, main
from pipelines.console.stopping import sigterm_as_before

SURFACE = {
    "validate": ["--files-from", "--model"],
    "init": ["--from", "--kind"],
    "schema": ["--markdown"],
    "diff": ["--files-from", "--json"],
    "plan": ["--calibrate", "--files-from", "--gpu-hour", "--json", "--rate", "--store"],
    "erase": ["--files-from", "--log-format", "--store", "--verify"],
    "status": ["--json"],
    "export": [
        "--all",
        "--alpha",
        "--as",
        "--combined",
        "--fraction",
        "--fuse",
        "--model",
        "--out",
        "--run",
        "--seal",
    ],
    "verify": ["--event", "--json", "--signers", "--store"],
    "gc": ["--forget", "--grace", "--yes"],
    "report": ["--out", "--run"],
    "sweep": ["--files-from", "--json", "--log-format", "--store"],
    "tune": [
        *("--files-from", "--gone", "--hold", "--json", "--log-format", "--out", "--store"),
        "--values",
    ],
    "submit": [
        *("--address", "--attack", "--files-from", "--gone", "--hold", "--log-format", "--of"),
        *("--store", "--values", "--working-dir"),
    ],
    "evaluate": ["--files-from", "--json", "--log-format", "--of", "--store"],
    "attack": ["--attack", "--files-from", "--log-format", "--of", "--store"],
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


def test_version_and_both_spellings_of_help_exit_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out == f"conceptprune {__version__}\n"
    for arguments in (["-h"], ["--help"], ["erase", "-h"]):
        assert run(*arguments) == 0
        assert "Usage" in capsys.readouterr().out


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_command_with_one_line_and_its_code(
    number: signal.Signals,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stopped_in_mid_work(*_: object) -> None:
        signal.raise_signal(number)

    # As in a terminal: what a shell starts in the background ignores Ctrl-C.
    at_ctrl_c = signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("pipelines.commands.schema.schema_text", stopped_in_mid_work)
    assert run("schema", "manifest") == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"stopped by {number.name}: ")
    assert signal.getsignal(signal.SIGTERM) == before
    signal.signal(signal.SIGINT, at_ctrl_c)


def test_what_takes_the_handler_of_sigterm_gives_it_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with sigterm_as_before():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGTERM) == before
