"""What this program writes to a terminal: without control characters and secrets from foreign text.

Names, errors and paths come from manifests, stores and services. An escape sequence in one would
recolour a terminal, rewrite lines above it, or set its title. All output goes through here.
"""

import errno
import io
import json
import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from math import isfinite
from traceback import format_exception
from types import TracebackType
from typing import Any

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook
from rich.segment import Segment

from conceptprune.redaction import redacted

from . import exits

LOG_WIDTH = 200
"""Columns of a table if no width is known, so that files are not cut at 80 columns."""
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

_BIDI = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_CONTROL = frozenset({"Cc", "Cs", "Zl", "Zp"})


def harmless(text: str) -> str:
    """Text in which control characters are replaced by a mark, except line breaks and tabs."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(REPLACEMENT if _is_control(char) else char for char in text)


def _is_control(char: str) -> bool:
    return char not in "\n\t" and (unicodedata.category(char) in _CONTROL or char in _BIDI)


def echo(text: str, *, err: bool = False, end: str = "\n") -> None:
    """Print text to standard output or standard error, at once, without secrets."""
    print(harmless(redacted(text)), end=end, file=sys.stderr if err else sys.stdout, flush=True)


def tell_document(text: str) -> None:
    """Print a document to standard output unchanged: it contains no foreign text."""
    print(harmless(text), end="", flush=True)


def _printable(value: Any) -> Any:
    """Without secrets, and with null for NaN and infinity, which JSON does not have."""
    match value:
        case str():
            return redacted(value)
        case float():
            return value if isfinite(value) else None
        case dict():
            return {name: _printable(each) for name, each in value.items()}
        case list() | tuple():
            return [_printable(each) for each in value]
    return value


def tell_json(document: dict[str, Any]) -> None:
    """Print a JSON document to standard output."""
    text = json.dumps(_printable(document), ensure_ascii=False, indent=2, allow_nan=False)
    tell_document(f"{text}\n")


def survive_narrow_encodings() -> None:
    """Print characters that a terminal's encoding lacks as escapes, rather than fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def output_that_may_be_full() -> Iterator[None]:
    """Inside the context, a full disk under standard output is one line and exit 1."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        # Neither a closed pipe, nor about a file that it names.
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO) or error.filename is not None:
            raise
        complain(OSError(f"{error.strerror}: standard output or a file could not be written"))
        # Else Python tries once more on its way out, and fails with a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(exits.FAILED)


def complain(error: BaseException) -> None:
    """Print an error, without the credentials of this process."""
    print(harmless(redacted(f"error: {error}")), file=sys.stderr)


def tell_traceback(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """Print an unexpected error like Python, but without secrets; an excepthook."""
    text = "".join(format_exception(kind, error, traceback))
    print(harmless(redacted(text)), end="", file=sys.stderr)


def terminal(*, stderr: bool = False) -> Console:
    """A console on standard output or error; only rich's own control characters get through it."""
    console = Console(stderr=stderr)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = LOG_WIDTH
    console.push_render_hook(_Harmless())
    return console


class _Harmless(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Rendered(renderables)]


class _Rendered:
    """Renderables with control characters replaced in their text, but rich's own kept."""

    def __init__(self, renderables: Iterable[ConsoleRenderable]) -> None:
        self._renderables = renderables

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for renderable in self._renderables:
            for segment in console.render(renderable, options):
                yield segment if segment.control else segment._replace(text=harmless(segment.text))
