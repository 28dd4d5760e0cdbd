"""Logs of a job: plain lines, or one JSON object per line that identifies run and unit."""

import io
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from traceback import format_exception
from typing import Any, Literal, TextIO

from rich.console import Console

from conceptprune.errors import UserError
from conceptprune.redaction import redacted

from .terminal import LOG_WIDTH, complain, echo, harmless

FORMAT_VARIABLE = "CONCEPTPRUNE_LOG_FORMAT"
LogFormat = Literal["json", "plain"]
OTHERS = ("ray", "py.warnings")
"""Loggers of other libraries that write to a driver's standard error."""

_identity: ContextVar[dict[str, str] | None] = ContextVar("identity", default=None)

logger = logging.getLogger("conceptprune.job")


@contextmanager
def identified(**identity: str) -> Iterator[None]:
    """Inside the context, this thread's JSON lines have these fields: `run`, `kind`, `key`."""
    token = _identity.set({**(_identity.get() or {}), **identity})
    try:
        yield
    finally:
        _identity.reset(token)


def log_format(asked: str | None = None) -> LogFormat:
    """The requested format, or that of the environment, or plain.

    Raises:
        UserError: there is no such format.
    """
    source = "--log-format" if asked else FORMAT_VARIABLE
    match asked or os.environ.get(FORMAT_VARIABLE) or "plain":
        case "json":
            return "json"
        case "plain":
            return "plain"
        case other:
            raise UserError(f"{source} {other}: json or plain")


def configure(form: LogFormat) -> None:
    """Send the package's log to standard error in that format; calling it again changes nothing."""
    _keep_secrets_out()
    package = logging.getLogger("conceptprune")
    package.handlers.clear()
    if form == "json":
        package.addHandler(JsonHandler(sys.stderr))
        for name in OTHERS:
            logging.getLogger(name).handlers[:] = package.handlers
    logging.captureWarnings(form == "json")
    package.propagate = form == "plain"
    if logging.lastResort is not None:
        # Writes plain lines, unless the surrounding program has set up its own log.
        logging.lastResort.setFormatter(PlainFormatter())
    package.setLevel(logging.INFO if form == "json" else logging.NOTSET)


def _keep_secrets_out() -> None:
    """Take secrets out of every record and warning of this process, whatever handler has it.

    transformers, diffusers, huggingface_hub and others write to standard error by their own.
    """
    before = logging.getLogRecordFactory()
    if not isinstance(before, _CleanRecords):
        logging.setLogRecordFactory(_CleanRecords(before))
    if not isinstance(warnings.formatwarning, _CleanWarnings):
        warnings.formatwarning = _CleanWarnings(warnings.formatwarning)


class _CleanRecords:
    def __init__(self, make: Callable[..., logging.LogRecord]) -> None:
        self._make = make

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record = self._make(*args, **kwargs)
        try:
            said = record.getMessage()
        except (TypeError, ValueError):
            # Its handler says what is wrong with it.
            return record
        clean = redacted(said)
        if clean != said:
            record.msg, record.args = clean, None
        if record.exc_info and record.exc_info[0]:
            # What formatters find here, they do not make themselves.
            record.exc_text = redacted("".join(format_exception(*record.exc_info)).rstrip("\n"))
        return record


class _CleanWarnings:
    def __init__(self, form: Callable[..., str]) -> None:
        self._form = form

    def __call__(self, *args: Any, **kwargs: Any) -> str:
        return redacted(self._form(*args, **kwargs))


def is_json() -> bool:
    """Whether this process's log is JSON lines."""
    handlers = logging.getLogger("conceptprune").handlers
    return any(isinstance(handler, JsonHandler) for handler in handlers)


def tell_error(error: BaseException) -> None:
    """Print the error that ended a command in one line; as a log line, if the log is JSON."""
    if is_json():
        logger.error("error: %s", error)
    else:
        complain(error)


def tell_end(line: str) -> None:
    """Print in one line why a command ends early; as a log line, if the log is JSON."""
    if is_json():
        logger.error("%s", line)
    else:
        echo(line, err=True)


def job_console(form: LogFormat, console: Console) -> Console:
    """Configure this process's log; returns the console for a job's output."""
    configure(form)
    return Console(file=LogLines(), width=LOG_WIDTH) if form == "json" else console


def say(console: Console, line: str) -> None:
    """Print one line unchanged: never wrapped, coloured or read as markup."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def say_failure(console: Console, line: str, **identity: str) -> None:
    """`say` what failed; in a JSON log, at level error and with the identity of the unit."""
    if isinstance(console.file, LogLines):
        with identified(**identity):
            logger.error("%s", line)
    else:
        say(console, line)


class PlainFormatter(logging.Formatter):
    """The message alone; credentials of this process and control characters are removed."""

    def format(self, record: logging.LogRecord) -> str:
        """A record as lines of text."""
        return harmless(redacted(super().format(record)))


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, message, and the identity of run and unit."""

    def format(self, record: logging.LogRecord) -> str:
        """A record as a line of JSON; credentials of this process are removed."""
        content: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": harmless(redacted(record.getMessage())),
            **(_identity.get() or {}),
        }
        if record.exc_info:
            content["error"] = harmless(redacted(self.formatException(record.exc_info)))
        return json.dumps(content, ensure_ascii=False)


class JsonHandler(logging.StreamHandler[TextIO]):
    """Writes JSON lines, whatever formatter it is given: Ray sets one on all handlers."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        super().setFormatter(JsonFormatter())

    def setFormatter(self, fmt: logging.Formatter | None) -> None:  # noqa: N802
        """Ignored: the format is always JSON."""


class LogLines(io.StringIO):
    """A text file whose every line becomes a log record, so that a console can write to it."""

    def __init__(self) -> None:
        super().__init__()
        self._rest = ""

    def write(self, text: str) -> int:
        """Log complete lines; keep the rest for the next write."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if line.strip():
                logger.info("%s", line.rstrip())
        return len(text)


def one_line(text: str) -> str:
    """Text from a store, made safe for a terminal: no control characters, line breaks, secrets."""
    # Before and after: a secret may have line breaks in it, or may be put together by leaving some.
    shown = "".join(char if char.isprintable() else " " for char in redacted(text))
    return redacted(" ".join(shown.split()))
