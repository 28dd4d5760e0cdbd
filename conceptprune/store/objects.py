"""The store in any other fsspec file system, and what S3 shares with these."""

import contextlib
import errno
from collections.abc import Iterator, Sequence
from typing import Any

from conceptprune.store.access import Access
from conceptprune.store.backend import Entry, below, most_bytes


class FsspecObjects:
    """Objects below a root path of an fsspec file system."""

    def __init__(self, fs: Any, root: str, access: Access) -> None:
        self.conditional = True
        self._fs = fs
        self._root = root
        self.access = access

    def read(self, path: str, size: int = 0) -> bytes | None:
        """An object's bytes, or None if it does not exist."""

        def read(seconds: float) -> bytes | None:
            found = self.stat(path)
            if found is not None and found.size > (most := size + 1 if size else most_bytes(path)):
                raise OSError(errno.EFBIG, f"larger than {most:,} bytes")
            try:
                data: bytes = self._fs.cat_file(self._full(path), **self._bound(seconds))
            except FileNotFoundError:
                return None
            return data

        return self.access.within(f"read {path}", read, size=size)

    def create(self, path: str, data: bytes, *, durable: bool = True) -> bool:
        """Write an object unless it exists; returns False if it did."""

        def create(seconds: float) -> bool:
            bound = self._bound(seconds)
            try:
                self._fs.pipe_file(self._full(path), data, mode="create", **bound)
            except FileExistsError:
                return False
            return True

        return self.access.within(f"write {path}", create, size=len(data))

    def replace(self, path: str, data: bytes, *, durable: bool = True) -> None:
        """Write or replace an object."""

        def replace(seconds: float) -> None:
            # In one piece; S3 has its own code for parts, which are retried one by one.
            self._fs.pipe_file(self._full(path), data, **self._bound(seconds))

        self.access.within(f"write {path}", replace, size=len(data))

    def stat(self, path: str) -> Entry | None:
        """An object's entry in a listing, or None if it does not exist."""

        def stat(seconds: float) -> Entry | None:
            try:
                size = self._fs.size(self._full(path), **self._bound(seconds))
                modified = self._fs.modified(self._full(path)).timestamp()
            except FileNotFoundError:
                return None
            return Entry(path=path, size=size, modified=modified)

        return self.access.within(f"look for {path}", stat)

    def names(self, folder: str) -> Iterator[str]:
        """Names of the objects and folders in a folder."""

        def names(seconds: float) -> list[str]:
            bound = self._bound(seconds)
            try:
                return list(self._fs.ls(self._full(folder), detail=False, **bound))
            except FileNotFoundError:
                return []

        for path in self.access.within(f"list {folder}", names):
            yield path.rstrip("/").rpartition("/")[2]

    def entries(self, folder: str) -> Iterator[Entry]:
        """All objects below a folder."""

        def find(seconds: float) -> list[str]:
            return list(self._fs.find(self._full(folder), **self._bound(seconds)))

        for full in self.access.within(f"list {folder}", find):
            if entry := self.stat(full.removeprefix(f"{self._root}/")):
                yield entry

    def move(self, path: str, to: str) -> None:
        """Move an object, replacing an existing one; does nothing if it does not exist."""

        found = self.stat(path)
        if found is None:
            return

        def move(seconds: float) -> None:
            bound = self._bound(seconds)
            with contextlib.suppress(FileNotFoundError):
                self._fs.cp_file(self._full(path), self._full(to), **bound)
                self._fs.rm_file(self._full(path), **bound)

        self.access.within(f"move {path}", move, size=found.size)

    def remove(self, paths: Sequence[str]) -> None:
        """Remove objects; missing ones are ignored."""
        for path in paths:
            self._remove_one(path)

    def _remove_one(self, path: str) -> None:
        def remove(seconds: float) -> None:
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(self._full(path), **self._bound(seconds))

        self.access.within(f"remove {path}", remove)

    def _bound(self, seconds: float) -> dict[str, float]:
        """The time limit of a try, for fsspec's asynchronous file systems; others take none."""
        return {"timeout": seconds} if self._fs.async_impl else {}

    def _full(self, path: str) -> str:
        return f"{self._root}/{below(self.access.uri, path)}"
