"""The JSON log: one object a line, whose it is, and nothing secret."""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO

import pytest
from ray._private.ray_logging import setup_logger
from rich.console import Console
from rich.table import Table

from conceptprune.errors import StoreError, UserError
from pipelines.cli import main
from pipelines.console.logs import (
    OTHERS,
    JsonFormatter,
    LogFormat,
    LogLines,
    configure,
    identified,
    log_format,
)
from pipelines.console.terminal import LOG_WIDTH, terminal
from pipelines.jobs.run import Outcome, tell_outcome


def line(message: str) -> dict[str, str]:
    record = logging.LogRecord("conceptprune.x", logging.WARNING, "f", 1, message, None, None)
    text = JsonFormatter().format(record)
    assert "\n" not in text
    return json.loads(text)


def test_a_line_has_time_level_message_and_the_identity_around_it() -> None:
    assert set(line("m")) == {"time", "level", "logger", "message"}
    with identified(run="r"):
        with identified(kind="mask", key="k"):
            inner = line("several\nlines")
        outer = line("m")
    assert (inner["run"], inner["kind"], inner["key"]) == ("r", "mask", "k")
    assert (inner["level"], inner["message"]) == ("warning", "several\nlines")
    assert "key" not in outer
    assert "run" not in line("m")


def test_credentials_of_the_process_are_taken_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-secret")
    assert "planted-secret" not in str(line("refused: planted-secret at s3://key:s@host"))


def test_the_option_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONCEPTPRUNE_LOG_FORMAT", raising=False)
    assert log_format() == "plain"
    monkeypatch.setenv("CONCEPTPRUNE_LOG_FORMAT", "json")
    assert log_format() == "json"
    assert log_format("plain") == "plain"
    with pytest.raises(UserError, match="--log-format xml: json or plain"):
        log_format("xml")


def test_what_a_console_prints_becomes_whole_lines_of_the_log(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure("json")
    try:
        lines = LogLines()
        lines.write("half ")
        lines.write("a line\n\nsecond\nnot yet")
    finally:
        configure("plain")
    told = [json.loads(text) for text in capsys.readouterr().err.splitlines()]
    assert [line["message"] for line in told] == ["half a line", "second"]


@contextmanager
def json_log() -> Iterator[None]:
    """Within it, the log is JSON, also that of others."""
    others = {name: list(logging.getLogger(name).handlers) for name in OTHERS}
    configure("json")
    try:
        yield
    finally:
        configure("plain")
        for name, handlers in others.items():
            logging.getLogger(name).handlers[:] = handlers


def told(capsys: pytest.CaptureFixture[str]) -> list[dict[str, str]]:
    """Every line of standard error: that each is JSON is part of what is tested."""
    return [json.loads(text) for text in capsys.readouterr().err.splitlines()]


def test_what_other_libraries_say_is_json_too_whatever_format_they_ask_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with json_log():
        # What `ray.init` does before its first line.
        setup_logger("info", "%(asctime)s %(message)s")
        logging.getLogger("ray._private.worker").info("Started a local Ray instance.")
        warnings.showwarning("something is old", UserWarning, "f.py", 1)
    first, second = told(capsys)
    assert first["message"] == "Started a local Ray instance."
    assert first["logger"] == "ray._private.worker"
    assert "something is old" in second["message"]


def test_a_failed_unit_is_an_error_with_its_kind_key_and_concepts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    failed = {
        "status": "failed",
        "kind": "mask",
        "key": "k" * 64,
        "concepts": ["Monet"],
        "attempts": 3,
        "error": "ValueError: x",
    }
    outcome = Outcome(computed=1, reused=0, rows=[failed])
    with json_log():
        tell_outcome(Console(file=LogLines(), width=LOG_WIDTH), "run 7", outcome, 1.0, "s")
    unit, last = told(capsys)
    assert (unit["level"], unit["kind"], unit["key"]) == ("error", "mask", "k" * 64)
    assert unit["concepts"] == "Monet"
    assert unit["message"].endswith("after 3 attempts: ValueError: x")
    assert (last["level"], "key" in last) == ("error", False)
    assert last["message"].startswith("failed: run 7")


def test_what_ends_a_command_is_a_line_of_json(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = iter([UserError("two\nlines"), StoreError("gone"), RuntimeError("a bug")])

    def fails(*_: object) -> None:
        raise next(errors)

    monkeypatch.setattr("pipelines.commands.schema.schema_text", fails)
    # As a job configures it, which `main` does not.
    monkeypatch.setattr("pipelines.cli.configure", lambda _: None)
    with json_log():
        for code in (2, 1, 1):
            with pytest.raises(SystemExit) as stop:
                main(["schema", "manifest"])
            assert stop.value.code == code
    lines = told(capsys)
    assert [line["level"] for line in lines] == ["error", "error", "critical"]
    assert lines[0]["message"] == "error: two\nlines"
    assert "RuntimeError: a bug" in lines[2]["error"]


def test_a_table_in_a_file_is_not_cut_at_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    table = Table()
    table.add_column("word")
    table.add_row("x" * 150)
    terminal().print(table)
    assert "x" * 150 in capsys.readouterr().out


@pytest.mark.parametrize("form", ["plain", "json"])
def test_a_librarys_own_handler_gets_no_secret(
    form: LogFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers, huggingface_hub and others write to standard error by handlers of their own."""
    monkeypatch.setenv("HF_TOKEN", "planted-secret")
    factory, warn = logging.getLogRecordFactory(), warnings.formatwarning
    library = logging.getLogger("some.library")
    library.propagate = False
    handler = logging.StreamHandler(StringIO())
    library.addHandler(handler)
    try:
        configure(form)
        configure(form)
        library.warning("no access with %s to %s", "planted-secret", "s3://key:word@host")
        library.warning("retried %d times", 3)
        try:
            raise ValueError("refused: planted-secret")
        except ValueError:
            library.exception("failed")
        warned = warnings.formatwarning("planted-secret", UserWarning, "f", 1, "code")
    finally:
        library.removeHandler(handler)
        logging.setLogRecordFactory(factory)
        warnings.formatwarning = warn
        configure("plain")
        logging.setLogRecordFactory(factory)
        warnings.formatwarning = warn
    said = handler.stream.getvalue()
    assert "no access with <HF_TOKEN> to s3://<credentials>@host" in said
    assert "retried 3 times" in said
    assert "ValueError: refused: <HF_TOKEN>" in said
    assert "planted" not in said + warned
