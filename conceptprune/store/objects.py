"""The store in any other file system that fsspec knows; also what S3 shares with these."""

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from conceptprune.store.access import Access
from conceptprune.store.backend import Entry


class FsspecObjects:
    """Objects below a root path of an fsspec file system."""

    def __init__(self, fs: Any, root: str, access: Access) -> None:
        self.conditional = True
        self._fs = fs
        self._root = root
        self.access = access

    def read(self, path: str) -> bytes | None:
        """An object's bytes, or None where there is none."""

        def read() -> bytes | None:
            try:
                data: bytes = self._fs.cat_file(self._full(path))
            except FileNotFoundError:
                return None
            return data

        return self.access(f"read {path}", read)

    def create(self, path: str, data: bytes, *, durable: bool = True) -> bool:
        """Write an object unless it exists; False where it did."""

        def create() -> bool:
            try:
                self._fs.pipe_file(self._full(path), data, mode="create")
            except FileExistsError:
                return False
            return True

        return self.access(f"write {path}", create)

    def replace(self, path: str, data: bytes, *, durable: bool = True) -> None:
        """Write or replace an object."""
        self.access(f"write {path}", lambda: self._fs.pipe_file(self._full(path), data))

    def stat(self, path: str) -> Entry | None:
        """What a listing would show of an object, or None where there is none."""

        def stat() -> Entry | None:
            try:
                size = self._fs.size(self._full(path))
                modified = self._fs.modified(self._full(path)).timestamp()
            except FileNotFoundError:
                return None
            return Entry(path=path, size=size, modified=modified)

        return self.access(f"look for {path}", stat)

    def names(self, folder: str) -> Iterator[str]:
        """Names of the objects and folders in a folder."""

        def names() -> list[str]:
            try:
                return list(self._fs.ls(self._full(folder), detail=False))
            except FileNotFoundError:
                return []

        for path in self.access(f"list {folder}", names):
            yield path.rstrip("/").rpartition("/")[2]

    def entries(self, folder: str) -> Iterator[Entry]:
        """All objects below a folder."""
        found = self.access(f"list {folder}", lambda: list(self._fs.find(self._full(folder))))
        for full in found:
            if entry := self.stat(full.removeprefix(f"{self._root}/")):
                yield entry

    def move(self, path: str, to: str) -> None:
        """Move an object, over one that may be there; nothing happens where there is none."""

        def move() -> None:
            with contextlib.suppress(FileNotFoundError):
                self._fs.cp_file(self._full(path), self._full(to))
                self._fs.rm_file(self._full(path))

        self.access(f"move {path}", move)

    def remove(self, paths: Sequence[str]) -> None:
        """Remove objects; those that do not exist are passed over."""

        def remove(path: str) -> None:
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(self._full(path))

        for path in paths:
            self.access(f"remove {path}", partial(remove, path))

    def _full(self, path: str) -> str:
        return f"{self._root}/{path}"
