"""The JSON log: one object a line, whose it is, and nothing secret."""

import json
import logging

import pytest

from conceptprune.errors import UserError
from pipelines.console.logs import JsonFormatter, LogLines, configure, identified, log_format


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
