"""Nothing foreign controls a terminal: not an error, not a name, not a line of a log."""

import io
import logging
import sys
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

import pipelines
from pipelines.cli import main
from pipelines.console.logs import PlainFormatter
from pipelines.console.terminal import echo, terminal

ESCAPES = ["\x1b[2J", "\x1b]0;title\x07", "\x9b31m", "\u202ename", "line\rover"]


def controls(text: str) -> set[str]:
    return {char for char in text if char in "\x1b\x07\x9b\r\u202e"}


@pytest.mark.parametrize("text", ESCAPES)
def test_an_escape_reaches_neither_stream(
    text: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    echo(f"name {text}")
    echo(f"name {text}", err=True)
    console = terminal()
    console.print(f"name {text}", markup=False, highlight=False, soft_wrap=True)
    table = Table(f"head {text}")
    table.add_row(f"cell {text}")
    console.print(table)
    with pytest.raises(SystemExit) as end:
        main(["status", str(tmp_path / text)])
    out, err = capsys.readouterr()
    assert end.value.code == 2
    assert "error: " in err
    assert out.count("name") >= 2
    assert not controls(out + err)


@pytest.mark.parametrize("text", ESCAPES)
def test_a_plain_log_line_has_none(text: str) -> None:
    record = logging.LogRecord("conceptprune.x", logging.WARNING, "f", 1, text, None, None)
    assert not controls(PlainFormatter().format(record))


def test_what_rich_does_itself_gets_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "pipelines.console.terminal.Console",
        lambda **_: Console(file=sink, force_terminal=True),
    )
    sink = io.StringIO()
    terminal().print("[bold]\x9b x[/]")
    assert "\x1b[1m" in sink.getvalue()
    assert "\x9b" not in sink.getvalue()


def test_all_output_of_the_commands_goes_through_the_one_place() -> None:
    folder = Path(pipelines.__file__).parent
    elsewhere = [
        path.relative_to(folder).as_posix()
        for path in sorted(folder.rglob("*.py"))
        if path.name not in ("terminal.py", "__main__.py")
        for line in path.read_text().splitlines()
        if line.lstrip().startswith(("print(", "typer.echo(")) or "Console()" in line
    ]
    assert elsewhere == []


def test_a_full_disk_under_the_output_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit) as stop:
            main(["schema", "manifest"])
    assert stop.value.code == 1
    said = capfd.readouterr().err
    assert said.startswith("error: No space left on device: standard output")
    assert said.count("\n") == 1


def test_what_an_encoding_lacks_is_printed_as_an_escape(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(narrow, encoding="ascii"))
    with pytest.raises(SystemExit) as stop:
        main(["validate", "m\N{LATIN SMALL LETTER E WITH ACUTE}.yaml"])
    assert stop.value.code == 2
    sys.stderr.flush()
    assert b"m\\xe9.yaml cannot be read" in narrow.getvalue()
