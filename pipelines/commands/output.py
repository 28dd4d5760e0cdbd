"""Folders that a command writes completely or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from conceptprune.errors import UserError


def check_unused(out: Path) -> None:
    """Raise a `UserError` if the folder `out` already has something in it."""
    try:
        used = out.exists() and (not out.is_dir() or any(out.iterdir()))
    except OSError as error:
        raise UserError(f"--out {out}: cannot be used: {error.strerror}") from error
    if used:
        raise UserError(f"--out {out}: exists already; name a folder that does not")


@contextmanager
def complete_or_absent(out: Path) -> Iterator[Path]:
    """A folder next to `out` that replaces it at the end, or is removed on an error."""
    temporary = out.parent / f".{out.name}-{uuid4().hex}"
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written: {error.strerror}") from error
    try:
        yield temporary
        temporary.replace(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
