"""The store in a local folder: whole files by renaming, conditional puts by hard links."""

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from conceptprune.errors import StoreError
from conceptprune.store.access import Access
from conceptprune.store.backend import Entry, below, most_bytes

TEMPORARY_PREFIX = ".writing-"

NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)


class LocalFiles:
    """Files below a folder, which is created by the first write."""

    def __init__(self, root: Path, access: Access) -> None:
        self.conditional = True
        self._root = root
        self.access = access

    def read(self, path: str, size: int = 0) -> bytes | None:
        """A file's bytes, or None if it does not exist."""

        def read() -> bytes | None:
            try:
                # Without blocking: a pipe would block forever.
                handle = os.open(self._full(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            with os.fdopen(handle, "rb") as stream:
                found = os.fstat(handle)
                if not stat.S_ISREG(found.st_mode):
                    raise OSError(errno.EINVAL, "not a regular file")
                if not size and found.st_size > (most := most_bytes(path)):
                    raise OSError(errno.EFBIG, f"larger than {most:,} bytes")
                # A file larger than recorded is damaged, so there is no need to read all of it.
                return stream.read(min(found.st_size, size + 1) if size else found.st_size)

        return self.access(f"read {path}", read)

    def create(self, path: str, data: bytes, *, durable: bool = True) -> bool:
        """Write a file unless it exists; returns False if it did."""

        def create() -> bool:
            target = self._full(path)
            with _written_beside(target, data, durable) as temporary:
                try:
                    os.link(temporary, target)
                except FileExistsError:
                    return False
                except OSError as error:
                    # Mounted object stores and some network drives have no hard links.
                    if error.errno not in NO_HARD_LINKS:
                        raise
                    self.conditional = False
                    if target.exists():
                        return False
                    temporary.replace(target)
                return True

        return self.access(f"write {path}", create)

    def replace(self, path: str, data: bytes, *, durable: bool = True) -> None:
        """Write or replace a file, whole or not at all."""

        def replace() -> None:
            target = self._full(path)
            with _written_beside(target, data, durable) as temporary:
                temporary.replace(target)

        self.access(f"write {path}", replace)

    def stat(self, path: str) -> Entry | None:
        """A file's entry in a listing, or None if it does not exist."""

        def look() -> Entry | None:
            try:
                found = self._full(path).stat(follow_symlinks=False)
            except FileNotFoundError:
                return None
            return Entry(path=path, size=found.st_size, modified=found.st_mtime)

        return self.access(f"look for {path}", look)

    def names(self, folder: str) -> Iterator[str]:
        """Names of the files and folders in a folder."""

        return (found.name for found in self._scan(folder))

    def entries(self, folder: str) -> Iterator[Entry]:
        """All files below a folder; links are ignored, wherever they lead."""
        for found in self._scan(folder):
            path = f"{folder}/{found.name}"
            if found.is_dir(follow_symlinks=False):
                yield from self.entries(path)
            elif entry := self.stat(path):
                yield entry

    def move(self, path: str, to: str) -> None:
        """Move a file, replacing an existing one; does nothing if the file does not exist."""

        def move() -> None:
            source, target = self._full(path), self._full(to)
            target.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                source.replace(target)
                # As in an object store, where moving creates a new object.
                os.utime(target)

        self.access(f"move {path}", move)

    def remove(self, paths: Sequence[str]) -> None:
        """Remove files; missing ones are ignored."""
        for path in paths:
            self.access(f"remove {path}", partial(self._remove_one, path))

    def _remove_one(self, path: str) -> None:
        self._full(path).unlink(missing_ok=True)

    def _full(self, path: str) -> Path:
        """The full path, which must not go through a link that leads out of the root.

        Raises:
            StoreError: it does.
        """
        full = self._root / below(self.access.uri, path)
        if full.is_symlink() or not self._is_inside(full.parent):
            raise StoreError(
                f"{self.access.uri}: {path} is a link, or behind one that leads out of the store"
            )
        return full

    def _is_inside(self, folder: Path) -> bool:
        """Whether a folder below the root is still below it once links are followed."""
        between = folder
        while between != self._root:
            if between.is_symlink():
                return folder.resolve().is_relative_to(self._root.resolve())
            between = between.parent
        # To resolve paths without links took half of the time of a read.
        return True

    def _scan(self, folder: str) -> list[os.DirEntry[str]]:
        def scan() -> list[os.DirEntry[str]]:
            try:
                with os.scandir(self._full(folder)) as found:
                    return [entry for entry in found if not entry.is_symlink()]
            except FileNotFoundError:
                return []

        return self.access(f"list {folder}", scan)


@contextlib.contextmanager
def _written_beside(path: Path, data: bytes, durable: bool) -> Iterator[Path]:
    """A temporary file with `data` in the same folder, removed afterwards if still there."""
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
