"""What a node makes once for all of its workers: copies of models, and models converted."""

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

CACHE_VARIABLE = "CONCEPTPRUNE_CACHE"
"""Environment variable that names the cache's folder."""

PARTIAL = ".partial"
"""Suffix of a folder that is still being made."""

SECONDS_OF_PATIENCE = 60.0

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Where this node keeps what it made: `CONCEPTPRUNE_CACHE`, else in the user's cache."""
    if own := os.environ.get(CACHE_VARIABLE):
        return Path(own).expanduser()
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "conceptprune"


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """`folder`, whole: by `make`, given an empty folder that takes its place, if it is not there.

    Of several workers that ask at once, one makes it and the others wait; what was cut short is
    begun anew.
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_name(f"{folder.name}.lock"), folder):
        # Whoever had the lock before has made it.
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
    """Hold a lock, that another process may hold for as long as it makes `folder`."""
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
