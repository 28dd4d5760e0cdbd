"""Files that a node makes once for all of its workers: downloaded and converted models."""

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from conceptprune.errors import UserError

CACHE_VARIABLE = "CONCEPTPRUNE_CACHE"
"""Environment variable that names the cache's folder."""

PARTIAL = ".partial"
"""Suffix of a folder that is still being made."""

SECONDS_OF_PATIENCE = 60.0

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """The node's cache folder: `CONCEPTPRUNE_CACHE`, or else a folder in the user's cache."""
    if own := os.environ.get(CACHE_VARIABLE):
        return _at_home(Path(own))
    home = os.environ.get("XDG_CACHE_HOME")
    return _at_home(Path(home or "~/.cache")) / "conceptprune"


def _at_home(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise UserError(
            f"{path}: this machine knows no home of that user; set {CACHE_VARIABLE} to a folder"
        ) from error


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """Return `folder`, complete; if it is missing, `make` fills an empty folder that becomes it.

    If several workers ask at once, one makes it and the others wait. An interrupted attempt is
    started again from scratch.
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_name(f"{folder.name}.lock"), folder):
        # The previous holder of the lock has made it.
        if not folder.is_dir():
            partial = folder.with_name(f"{folder.name}{PARTIAL}")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            try:
                make(partial)
                partial.rename(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return folder


@contextmanager
def _locked(path: Path, folder: Path) -> Iterator[None]:
    """Hold a lock; another process may hold it for as long as it takes to make `folder`."""
    lock = FileLock(path)
    while not lock.is_locked:
        try:
            lock.acquire(timeout=SECONDS_OF_PATIENCE)
        except Timeout:
            logger.warning("waiting for another process of this node, which is making %s", folder)
    try:
        yield
    finally:
        lock.release()
