"""Text files that a document names: regular files, where the document's owner keeps them.

A manifest may be another's. What it names is read into prompts, and these go to the store: so it
names nothing but files below its own folder, or below one that the command line allows.
"""

import os
import stat
from collections.abc import Iterable
from contextvars import ContextVar
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationInfo

from conceptprune.manifest.fields import beside, refusal_here

_allowed: ContextVar[tuple[Path, ...]] = ContextVar("allowed", default=())


def allow_files_from(folders: Iterable[Path]) -> None:
    """Let documents that are read from now on name text files below these folders, too."""
    _allowed.set(tuple(folders))


def text_beside(written: str, info: ValidationInfo) -> Path:
    """The path of a text file that a document names, relative to the document's folder.

    Raises:
        PydanticCustomError: it is neither below that folder nor below one that is allowed, links
            followed.
    """
    found = Path(beside(written, info))
    if info.context:
        folder = Path(info.context["folder"])
        real = found.resolve()
        if not any(real.is_relative_to(one.resolve()) for one in (folder, *_allowed.get())):
            raise refusal_here(
                f"a file below {folder}, or below a folder that --files-from names: {written} "
                "is elsewhere"
            )
    return found


def open_regular(path: Path, most_bytes: int | None = None) -> BinaryIO:
    """A regular file, of at most so many bytes if any, opened without waiting for anybody.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is a pipe, a device or a folder, or is larger.
    """
    # Else opening a pipe waits until somebody writes to it.
    stream = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    found = os.fstat(stream.fileno())
    if not stat.S_ISREG(found.st_mode):
        stream.close()
        raise ValueError("not a regular file")
    if most_bytes is not None and found.st_size > most_bytes:
        stream.close()
        raise ValueError(f"{found.st_size:,} bytes, and at most {most_bytes:,} are read")
    return stream
