"""The store itself: what is written when, what is checked, and what becomes of damage."""

import contextlib
import logging
import math
import os
import time
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from conceptprune.digest import digest_bytes
from conceptprune.errors import NondeterminismError, StoreError
from conceptprune.store.access import Observer, deadline_from_environment
from conceptprune.store.backend import Backend, Entry
from conceptprune.store.opening import open_backend
from conceptprune.store.records import Commit, LostUnitError, ObjectRef
from conceptprune.store.uri import check_uri, odd_prefix

PROBES = "probe"
PROBE = (
    b"Written by conceptprune to find out whether this store honours conditional puts, and "
    b"removed again.\n"
)
PROBE_DEADLINE = 30.0
"""A store that does not answer at the start of a job is given up sooner than later on."""

RENEWED_AFTER = 3600.0
"""Seconds after which an equal object is written again, so that `gc` sees that it is in use."""

LOOKS = 2
"""An object counts as damaged when so many reads say so: bytes also get damaged on their way."""

logger = logging.getLogger("conceptprune.store")


class Store:
    """Artifacts below one URI: a local path, or any that fsspec knows (`s3://bucket/prefix`).

    Operations are tried again while a fault may pass, for CONCEPTPRUNE_STORE_DEADLINE seconds;
    after that, and for any other fault, they raise StoreError. Pickled, a store is its URI.
    """

    def __init__(self, uri: str, observer: Observer | None = None) -> None:
        """Open a store; nothing is written before the first object.

        Args:
            uri: a folder, or `s3://bucket/prefix`.
            observer: told of every operation in this process; a pickled store has none.

        Raises:
            UserError: the URI is misspelt, its scheme is unknown, or it holds credentials.
        """
        check_uri(uri)
        self.uri = uri
        self.conditional = True
        """Whether it honours conditional puts, as far as `check` has found out."""
        self._deadline = deadline_from_environment()
        self._observer = observer
        self._opened = self._open()
        self._opened_in = os.getpid()

    def __repr__(self) -> str:
        return f"Store({self.uri!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        # The file system holds sockets, threads and maybe credentials: all belong to one process.
        return Store, (self.place,)

    @property
    def place(self) -> str:
        """The URI for other processes, whose working directory is another: folders are absolute."""
        return self.uri if "://" in self.uri else str(Path(self.uri).expanduser().absolute())

    @property
    def _backend(self) -> Backend:
        if self._opened_in != os.getpid():
            # Forked: the parent's connections, and the threads that serve them, are not here.
            self._opened = self._open()
            self._opened_in = os.getpid()
        return self._opened

    def _hurried(self, deadline: float) -> Backend:
        """The backend with another deadline, unless its own is sooner."""
        backend = copy(self._backend)
        backend.access = replace(backend.access, deadline=min(self._deadline, deadline))
        return backend

    def _open(self) -> Backend:
        backend = open_backend(self.uri, self._deadline)
        backend.access = replace(backend.access, observer=self._observer)
        return backend

    def check(self) -> bool:
        """Find out, before any work, whether the store can be used and honours conditional puts.

        Returns:
            True where a record is created in one step, so that of two workers that finish the same
            unit one is always told. False, with a warning, where it is not: then `commit` looks
            for an earlier record just before it writes its own. Objects are named by their
            content, so two workers that get through at once do no harm; only that their results
            differ, should that ever happen, may go unnoticed.

        Raises:
            StoreError: it cannot be reached, written, read or listed.
        """
        backend = self._hurried(PROBE_DEADLINE)
        # Of its own name: what an earlier job left behind, damaged maybe, is not in the way.
        path = f"{PROBES}/{uuid4().hex}"
        try:
            refused = self._probe(backend, path)
        except StoreError as error:
            with contextlib.suppress(StoreError):
                backend.remove([path])
            if odd_prefix(self.uri):
                raise StoreError(
                    f"{error}; not every server takes a prefix with // or \\"
                ) from error
            raise
        try:
            backend.remove([path])
        except StoreError as error:
            logger.warning("%s; so claims stay until they expire, and `gc` removes nothing", error)
        self.conditional = refused and backend.conditional
        if not self.conditional:
            logger.warning(
                "%s does not honour conditional puts (If-None-Match): two workers that finish the "
                "same unit at the same moment are not told whether their results differ",
                self.uri,
            )
        return self.conditional

    def _probe(self, backend: Backend, path: str) -> bool:
        """Write a file, again, read and list it; whether the second writing was refused."""
        backend.create(path, PROBE)
        refused = not backend.create(path, PROBE)
        if backend.read(path) != PROBE:
            raise StoreError(f"{self.uri}: {path} reads other than it was written")
        folder, _, name = path.rpartition("/")
        if name not in backend.names(folder):
            raise StoreError(f"{self.uri}: {path} was written, and a listing of {folder} lacks it")
        return refused

    def put(self, data: bytes, *, kind: str, model: str, suffix: str) -> ObjectRef:
        """Write an object under the digest of its bytes, unless it has lately been written.

        Only equal bytes can have the same path, so writing over an old object changes nothing, and
        mends one that was cut short.
        """
        digest = digest_bytes(data)
        path = f"objects/{kind}/model={model[:12]}/{digest}.{suffix}"
        found = self._backend.stat(path)
        whole = found is not None and found.size == len(data)
        if not (found and whole and time.time() - found.modified < RENEWED_AFTER):
            self._backend.replace(path, data)
        return ObjectRef(path=path, digest=digest, size=len(data))

    def read(self, ref: ObjectRef) -> bytes:
        """An object's bytes; `load` also puts right what is damaged.

        Raises:
            StoreError: the object is missing, or its bytes are not those that were written.
        """
        data, fault = self._examine(ref)
        if data is None or fault:
            raise StoreError(f"{self.uri}: {ref.path} {fault}")
        return data

    def load(self, commit: Commit, role: str) -> bytes:
        """The bytes of one object of committed work.

        Raises:
            LostUnitError: the object is missing or damaged. The unit is set aside and no longer
                counts as done, so that whoever needs it can compute it again.
        """
        ref = commit.objects[role]
        data, fault = self._examine(ref)
        if data is not None and not fault:
            return data
        message = f"{self.uri}: {ref.path} {fault}; "
        try:
            message += (
                f"it was set aside, and {commit.kind} {commit.key[:12]} no longer counts as done: "
                "run the job again to compute it"
                if self.set_aside(commit)
                else "it has been made anew in the meantime: try again"
            )
        except StoreError as error:
            message += f"it is still in its place ({error})"
        raise LostUnitError(message, kind=commit.kind, key=commit.key, path=ref.path)

    def set_aside(self, commit: Commit) -> bool:
        """Move a unit's damaged objects, and then its record, to `damaged/` with the same path.

        False where everything is whole after all, or was committed anew in the meantime.
        """
        if self.find(commit.kind, commit.key) != commit:
            return False
        damaged = False
        for ref in commit.objects.values():
            data, fault = self._examine(ref)
            damaged = damaged or bool(fault)
            if data is not None and fault:
                self._move_aside(ref.path, fault)
        if damaged:
            # Last: until then the unit cannot be computed again, and find its object in the way.
            self._move_aside(_commit_path(commit.kind, commit.key), "names a damaged object")
        return damaged

    def disown(self, commit: Commit, why: str) -> None:
        """Move a record to `damaged/` whose objects are whole, and not those of its unit."""
        self._move_aside(_commit_path(commit.kind, commit.key), f"is not to be trusted ({why})")

    def commit(self, commit: Commit) -> None:
        """Record that work is done; of two results the first record stays.

        Two may differ only where memory made one of them go through the denoiser in smaller parts.

        Raises:
            NondeterminismError: the work was committed before with other bytes.
        """
        path = _commit_path(commit.kind, commit.key)
        # Looked for first, because a store that ignores the condition would write over it.
        earlier, damaged = self._record(commit.kind, commit.key)
        if damaged:
            self._move_aside(path, "is damaged")
        if earlier is None:
            if self._backend.create(path, commit.to_bytes()):
                return
            earlier = self.find(commit.kind, commit.key)
        if earlier is None:
            raise StoreError(f"{self.uri}: {path} was removed while it was being written")
        if commit.at_once == earlier.at_once and (difference := commit.difference(earlier)):
            raise NondeterminismError(
                f"{commit.kind} {commit.key} is not deterministic: {difference}"
            )

    def find(self, kind: str, key: str) -> Commit | None:
        """The commit record of a piece of work, or None where it is not done.

        Work whose record is damaged is not done.

        Raises:
            UnknownFormatError: the record is of another format.
        """
        return self._record(kind, key)[0]

    def get(self, kind: str, key: str) -> Commit:
        """The commit record of a piece of work that should be done.

        Raises:
            LostUnitError: it is not done; or its record is damaged, and was set aside.
        """
        commit, damaged = self._record(kind, key)
        if commit is None:
            path = _commit_path(kind, key)
            message = f"{self.uri}: {kind} {key} is not in the store"
            if damaged:
                message += ", its record was damaged: run the job again to compute it"
                self._move_aside(path, "is damaged")
            raise LostUnitError(message, kind=kind, key=key, path=path)
        return commit

    def committed(self, kind: str) -> frozenset[str]:
        """Keys of all work of a kind that is done, as a listing has it: no record is read."""
        names = self._backend.names(f"commits/{kind}")
        return frozenset(name.removesuffix(".json") for name in names if name.endswith(".json"))

    def runs(self) -> list[str]:
        """Ids of the runs this store knows, sorted."""
        # From their files: a local folder may outlast them, and an object store has no folders.
        folders = {entry.path.split("/")[1] for entry in self.entries("runs")}
        return sorted(folder.removeprefix("run=") for folder in folders)

    def write_run_file(self, run: str, name: str, data: bytes) -> None:
        """Write or replace a file of a run (whole, or not at all)."""
        self._backend.replace(f"runs/run={run}/{name}", data)

    def read_run_file(self, run: str, name: str) -> bytes | None:
        """A file of a run, or None where there is none."""
        return self._backend.read(f"runs/run={run}/{name}")

    def create_event(self, name: str, data: bytes) -> bool:
        """Write an event (`events.py`) unless there is one of that name; False where there was."""
        return self._backend.create(f"events/{name}", data)

    def read_event(self, name: str) -> bytes | None:
        """An event, or None where there is none."""
        return self._backend.read(f"events/{name}")

    def event_names(self) -> Iterator[str]:
        """Names of all events."""
        return self._backend.names("events")

    def create_claim(self, path: str, data: bytes) -> bool:
        """Write a claim (`claims.py`) unless there is one; False where there was."""
        # Not to disk at once, which takes longer than all else: after a power cut nobody computes.
        return self._backend.create(f"claims/{path}", data, durable=False)

    def write_claim(self, path: str, data: bytes, *, deadline: float = math.inf) -> None:
        """Write or replace a claim, tried for so many seconds if that is less than usual."""
        self._hurried(deadline).replace(f"claims/{path}", data, durable=False)

    def read_claim(self, path: str) -> bytes | None:
        """A claim, or None where there is none."""
        return self._backend.read(f"claims/{path}")

    def claims(self) -> Iterator[Entry]:
        """All claims, expired ones too."""
        return self._backend.entries("claims")

    def entries(self, folder: str) -> Iterator[Entry]:
        """All files below one of the store's folders, with sizes and times."""
        return self._backend.entries(folder)

    def remove(self, paths: Sequence[str]) -> None:
        """Remove files for good; `conceptprune gc` knows which may go."""
        self._backend.remove(paths)

    def _record(self, kind: str, key: str) -> tuple[Commit | None, bool]:
        """The record of a unit if it is whole, and whether it is there and is not."""
        for _ in range(LOOKS):
            data = self._backend.read(_commit_path(kind, key))
            if data is None:
                return None, False
            with contextlib.suppress(ValueError):
                commit = Commit.from_bytes(data)
                # A copy under another key would hand out another unit's result.
                if (commit.kind, commit.key) == (kind, key):
                    return commit, False
        return None, True

    def _examine(self, ref: ObjectRef) -> tuple[bytes | None, str]:
        """An object's bytes as they are, and what is wrong with them."""
        for _ in range(LOOKS):
            data = self._backend.read(ref.path, ref.size)
            fault = ref.fault(data)
            if not fault:
                break
        return data, fault

    def _move_aside(self, path: str, fault: str) -> None:
        logger.warning("%s: %s %s; moved to damaged/%s", self.uri, path, fault, path)
        self._backend.move(path, f"damaged/{path}")


def _commit_path(kind: str, key: str) -> str:
    return f"commits/{kind}/{key}.json"
