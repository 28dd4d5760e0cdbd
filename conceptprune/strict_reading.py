"""How to read what others may have written: regular files of bounded size, and plain JSON."""

import io
import json
import math
import os
import stat
from pathlib import Path
from typing import Any

DEEPEST = 64
"""Levels of lists and objects in JSON; the readers' own recursion ends well above it."""
PIECE = 2**20
LARGEST = 2**64
"""Bound of whole numbers in JSON."""


def open_regular(path: Path, most_bytes: int | None = None) -> io.BufferedReader:
    """Open a regular file, of at most `most_bytes` bytes if given, without ever blocking.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is a pipe, a device or a folder, or is too large.
    """
    # Otherwise opening a pipe blocks until somebody writes to it.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    found = os.fstat(handle)
    wrong = ""
    if not stat.S_ISREG(found.st_mode):
        wrong = "not a regular file"
    elif most_bytes is not None and found.st_size > most_bytes:
        wrong = f"{found.st_size:,} bytes, and at most {most_bytes:,} are read"
    if wrong:
        os.close(handle)
        raise ValueError(wrong)
    return os.fdopen(handle, "rb")


def read_regular(path: Path, most_bytes: int) -> bytes:
    """The bytes of a regular file.

    Raises:
        OSError, ValueError: as `open_regular`.
    """
    with open_regular(path, most_bytes) as stream:
        data = stream.read(os.fstat(stream.fileno()).st_size)
        # Some files have more bytes than they say.
        while len(data) < most_bytes and (more := stream.read(min(most_bytes - len(data), PIECE))):
            data += more
        return data


def plain_json(data: bytes | str, *, deepest: int = DEEPEST) -> Any:
    """JSON that every reader takes alike and every writer can write again.

    Raises:
        ValueError: it is no JSON, or none in UTF-8; a name occurs twice in an object; or see
            `check_plain`.
    """
    text = data if isinstance(data, str) else data.decode("utf-8")
    try:
        content = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
    except RecursionError as error:
        raise ValueError("it is too deep") from error
    check_plain(content, deepest)
    return content


def check_plain(content: Any, deepest: int = DEEPEST) -> None:
    """Check that parsed JSON can be printed, written again, and computed with.

    Raises:
        ValueError: it has more than `deepest` levels, a number that is not finite or has more than
            64 bits, or a character that UTF-8 does not have.
    """
    level: list[Any] = [content]
    for _ in range(deepest):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner += value.keys()
                inner += value.values()
            elif isinstance(value, list):
                inner += value
            elif isinstance(value, str):
                # A lone surrogate could not be printed.
                if not value.isascii():
                    value.encode()
            elif isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"it has a number {value}")
            elif isinstance(value, int) and abs(value) > LARGEST:
                raise ValueError("it has a number of more than 64 bits")
        if not inner:
            return
        level = inner
    raise ValueError("it is too deep")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number")
