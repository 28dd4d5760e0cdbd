"""The store in a local folder: whole files by renaming, conditional puts by hard links."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from conceptprune.store.access import Access
from conceptprune.store.backend import Entry

TEMPORARY_PREFIX = ".writing-"

NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)


class LocalFiles:
    """Files below a folder, which is made when first written to."""

    def __init__(self, root: Path, access: Access) -> None:
        self.conditional = True
        self._root = root
        self.access = access

    def read(self, path: str, size: int = 0) -> bytes | None:
        """A file's bytes, or None where there is none."""

        def read() -> bytes | None:
            try:
                return (self._root / path).read_bytes()
            except FileNotFoundError:
                return None

        return self.access(f"read {path}", read)

    def create(self, path: str, data: bytes, *, durable: bool = True) -> bool:
        """Write a file unless it exists; False where it did."""

        def create() -> bool:
            with _written_beside(self._root / path, data, durable) as temporary:
                try:
                    os.link(temporary, self._root / path)
                except FileExistsError:
                    return False
                except OSError as error:
                    # Mounted object stores and some network drives.
                    if error.errno not in NO_HARD_LINKS:
                        raise
                    self.conditional = False
                    if (self._root / path).exists():
                        return False
                    temporary.replace(self._root / path)
                return True

        return self.access(f"write {path}", create)

    def replace(self, path: str, data: bytes, *, durable: bool = True) -> None:
        """Write or replace a file, whole or not at all."""

        def replace() -> None:
            with _written_beside(self._root / path, data, durable) as temporary:
                temporary.replace(self._root / path)

        self.access(f"write {path}", replace)

    def stat(self, path: str) -> Entry | None:
        """What a listing would show of a file, or None where there is none."""

        def stat() -> Entry | None:
            try:
                found = (self._root / path).stat()
            except FileNotFoundError:
                return None
            return Entry(path=path, size=found.st_size, modified=found.st_mtime)

        return self.access(f"look for {path}", stat)

    def names(self, folder: str) -> Iterator[str]:
        """Names of the files and folders in a folder."""

        return (found.name for found in self._scan(folder))

    def entries(self, folder: str) -> Iterator[Entry]:
        """All files below a folder."""
        for found in self._scan(folder):
            path = f"{folder}/{found.name}"
            if found.is_dir():
                yield from self.entries(path)
            elif entry := self.stat(path):
                yield entry

    def move(self, path: str, to: str) -> None:
        """Move a file, over one that may be there; nothing happens where there is none."""

        def move() -> None:
            target = self._root / to
            target.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                (self._root / path).replace(target)
                # As in an object store, where a moved object is a new one.
                os.utime(target)

        self.access(f"move {path}", move)

    def remove(self, paths: Sequence[str]) -> None:
        """Remove files; those that do not exist are passed over."""
        for path in paths:
            unlink = partial((self._root / path).unlink, missing_ok=True)
            self.access(f"remove {path}", unlink)

    def _scan(self, folder: str) -> list[os.DirEntry[str]]:
        def scan() -> list[os.DirEntry[str]]:
            try:
                with os.scandir(self._root / folder) as found:
                    return list(found)
            except FileNotFoundError:
                return []

        return self.access(f"list {folder}", scan)


@contextlib.contextmanager
def _written_beside(path: Path, data: bytes, durable: bool) -> Iterator[Path]:
    """A temporary file in the same folder that holds `data`; gone afterwards if still there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=TEMPORARY_PREFIX)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        temporary.chmod(0o644)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
