"""What the store asks of the place its files lie in; `files.py`, `objects.py` and `s3.py` do it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from conceptprune.errors import StoreError
from conceptprune.store.access import Access


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A file as a listing shows it."""

    path: str
    """Below the store's URI."""
    size: int
    modified: float
    """Seconds since 1970."""


def below(root: str, path: str) -> str:
    """`path` itself, where it is the plain name of something below the store's root.

    Paths are also taken from records, ledgers and claims, which anyone who can write the store
    may have written.

    Raises:
        StoreError: it is absolute, or has empty parts, `.`, `..` or control characters.
    """
    parts = path.split("/")
    if {"", ".", ".."} & set(parts) or any(ord(sign) < 32 for sign in path):
        raise StoreError(f"{root}: {path!r:.200} is no path below a store's root")
    return path


class Backend(Protocol):
    """Whole files by path; every method raises StoreError where the place fails for good."""

    access: Access
    """How its operations are tried."""
    conditional: bool
    """Whether `create` is one step, as far as is known; else it looks first, and then writes."""

    def read(self, path: str, size: int = 0) -> bytes | None:
        """A file's bytes, or None where there is none; `size` is how many are expected."""

    def create(self, path: str, data: bytes, *, durable: bool = True) -> bool:
        """Write a small file unless it exists; False where it did.

        One that need not outlast a power cut (`durable`) may be written faster.
        """

    def replace(self, path: str, data: bytes, *, durable: bool = True) -> None:
        """Write or replace a file: readers see the old bytes or the new ones, never a part."""

    def stat(self, path: str) -> Entry | None:
        """What a listing would show of a file, or None where there is none."""

    def names(self, folder: str) -> Iterator[str]:
        """Names of the files and folders in a folder."""

    def entries(self, folder: str) -> Iterator[Entry]:
        """All files below a folder."""

    def move(self, path: str, to: str) -> None:
        """Move a file, over one that may be there; nothing happens where there is none."""

    def remove(self, paths: Sequence[str]) -> None:
        """Remove files; those that do not exist are passed over."""
