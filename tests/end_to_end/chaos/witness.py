"""Which units were begun, and how often: seen from outside, by the claims that workers write.

Every unit is claimed before it is computed. A claim may be gone within milliseconds, so looking at
the folder from time to time is not enough: the kernel tells of each one (inotify), or the proxy
that all requests to an S3 server go through.
"""

import ctypes
import json
import os
import struct
import threading
from collections import Counter
from pathlib import Path
from typing import Protocol

from tests.support.s3_faults import FaultProxy

KINDS = ("prompts", "window", "statistics", "mask", "fused-mask")
IN_CREATE = 0x100
IN_MOVED_TO = 0x80
CLOCK = 0.01
"""Seconds by which the times of files may lag behind."""
EVENT = struct.Struct("iIII")


class Witness(Protocol):
    def begun(self) -> Counter[str]:
        """How often each unit was begun, by key."""

    def close(self) -> None:
        """Look no longer."""


class FolderWitness:
    """Watches the claims of a store in a folder, from before its first until `close`."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._handle = self._libc.inotify_init1(os.O_CLOEXEC)
        self._folders: dict[int, Path] = {}
        for kind in KINDS:
            folder = store / "claims" / kind
            folder.mkdir(parents=True, exist_ok=True)
            watch = self._libc.inotify_add_watch(
                self._handle, os.fsencode(folder), IN_CREATE | IN_MOVED_TO
            )
            assert watch >= 0, os.strerror(ctypes.get_errno())
            self._folders[watch] = folder
        self._begun: Counter[str] = Counter()
        self._since: dict[str, float] = {}
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def begun(self) -> Counter[str]:
        return self._begun.copy()

    def close(self) -> None:
        # The end of a watch is an event of its own, which ends the thread.
        for watch in self._folders:
            self._libc.inotify_rm_watch(self._handle, watch)
        self._thread.join(timeout=10)
        os.close(self._handle)

    def _read(self) -> None:
        left = len(self._folders)
        while left:
            events = os.read(self._handle, 1 << 16)
            while events:
                watch, mask, _, length = EVENT.unpack_from(events)
                name = os.fsdecode(events[EVENT.size : EVENT.size + length].rstrip(b"\0"))
                events = events[EVENT.size + length :]
                if not name:
                    left -= 1
                elif not name.startswith("."):
                    self._claimed(self._folders[watch] / name, created=bool(mask & IN_CREATE))

    def _claimed(self, path: Path, *, created: bool) -> None:
        try:
            since = json.loads(path.read_bytes())["since"]
        except (FileNotFoundError, ValueError):
            since = None
        # Taken over, where it was there; a claim that is only renewed keeps the time it was made.
        taken = created or (since is not None and since != self._since.get(path.stem, since))
        if taken and not self._done_before(path, since):
            self._begun[path.stem] += 1
        if since is not None:
            self._since[path.stem] = since

    def _done_before(self, path: Path, since: float | None) -> bool:
        """Whether the worker finds the unit done: it may be asked for one that another finished."""
        commit = self._store / "commits" / path.parent.name / path.name
        try:
            return since is not None and commit.stat().st_mtime < since - CLOCK
        except FileNotFoundError:
            return False


class ProxyWitness:
    """Reads it off the requests that a proxy passed on; claims must outlast the test."""

    def __init__(self, proxy: FaultProxy) -> None:
        self._proxy = proxy

    def begun(self) -> Counter[str]:
        return Counter(
            Path(request.path.partition("?")[0]).stem
            for request, status in self._proxy.answered
            if request.method == "PUT" and "/claims/" in request.path and status == 200
        )

    def close(self) -> None:
        pass
