"""The interface to where a store's files are; see `files.py`, `objects.py` and `s3.py`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from conceptprune.errors import StoreError
from conceptprune.store.access import Access

MOST_BYTES = 1 << 30
"""Limit for a file whose size is not recorded: a ledger of a million units."""
MOST_BYTES_IN = {"claims": 1 << 16, "commits": 1 << 26, "events": 1 << 26, "probe": 1 << 16}
"""The same for other folders: a record has a line for each object, an event for each concept."""
MOST_JSON_BYTES = 1 << 27
"""The same for a run's files in JSON: a manifest with a list of concepts has up to 16 MiB."""


def most_bytes(path: str) -> int:
    """Limit for a file below a store's root whose size is not recorded."""
    if path.startswith("runs/") and path.endswith(".json"):
        return MOST_JSON_BYTES
    return MOST_BYTES_IN.get(path.partition("/")[0], MOST_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A file in a listing."""

    path: str
    """Relative to the store's URI."""
    size: int
    modified: float
    """Seconds since 1970."""


def below(root: str, path: str) -> str:
    """Return `path` unchanged, if it is a plain path below the store's root.

    Paths also come from records, ledgers and claims, which anyone with write access to the store
    may have written.

    Raises:
        StoreError: it is absolute, or has empty parts, `.`, `..` or control characters.
    """
    parts = path.split("/")
    if {"", ".", ".."} & set(parts) or any(ord(sign) < 32 for sign in path):
        raise StoreError(f"{root}: {path!r:.200} is not a path below a store's root")
    return path


class Backend(Protocol):
    """Whole files by path; every method raises StoreError if an operation fails for good."""

    access: Access
    """How its operations are run and retried."""
    conditional: bool
    """Whether `create` is atomic, as far as is known; otherwise it looks first, and then writes."""

    def read(self, path: str, size: int = 0) -> bytes | None:
        """A file's bytes, or None if it does not exist.

        `size` is the expected size: of a longer file, one byte more is read, where the file system
        can. Without it, a file larger than `most_bytes` is an error.
        """

    def create(self, path: str, data: bytes, *, durable: bool = True) -> bool:
        """Write a small file unless it exists; returns False if it did.

        A file that need not survive a power cut (`durable=False`) may be written faster.
        """

    def replace(self, path: str, data: bytes, *, durable: bool = True) -> None:
        """Write or replace a file: readers see the old bytes or the new ones, never a mixture."""

    def stat(self, path: str) -> Entry | None:
        """A file's entry in a listing, or None if it does not exist."""

    def names(self, folder: str) -> Iterator[str]:
        """Names of the files and folders in a folder."""

    def entries(self, folder: str) -> Iterator[Entry]:
        """All files below a folder."""

    def move(self, path: str, to: str) -> None:
        """Move a file, replacing an existing one; does nothing if the file does not exist."""

    def remove(self, paths: Sequence[str]) -> None:
        """Remove files; missing ones are ignored."""
