"""What a node makes once for all of its workers: copies of models, and models converted."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

CACHE_VARIABLE = "CONCEPTPRUNE_CACHE"
"""Environment variable that names the cache's folder."""

PARTIAL = ".partial"
"""Suffix of a folder that is still being made."""


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
    with FileLock(folder.with_name(f"{folder.name}.lock")):
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
