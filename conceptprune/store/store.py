"""The store: what is written when, what is checked, and how damage is handled."""

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
from conceptprune.store.backend import MOST_BYTES_IN, Backend, Entry
from conceptprune.store.opening import open_backend
from conceptprune.store.records import Commit, LostUnitError, ObjectRef
from conceptprune.store.uri import check_uri, odd_prefix

PROBES = "probe"
PROBE = (
    b"Written by conceptprune to find out whether this store honours conditional puts, and "
    b"removed again.\n"
)
PROBE_DEADLINE = 30.0
"""A store that does not answer at the start of a job is given up sooner than one in use."""

RENEWED_AFTER = 3600.0
"""Age in seconds from which an equal object is rewritten, so that `gc` sees it is in use."""

LOOKS = 2
"""Reads that must agree that an object is damaged, since bytes may also be damaged in transit."""
WRITES = 3
"""Times that a record is written where it is said to be there, and cannot be read."""

logger = logging.getLogger("conceptprune.store")


class Store:
    """Artifacts below one URI: a local path, or any that fsspec supports (`s3://bucket/prefix`).

    Transient errors are retried for CONCEPTPRUNE_STORE_DEADLINE seconds; after that, and for all
    other errors, StoreError is raised. A store is pickled as its URI.
    """

    def __init__(self, uri: str, observer: Observer | None = None) -> None:
        """Open a store; nothing is written before the first object.

        Args:
            uri: a folder, or `s3://bucket/prefix`.
            observer: called after every operation in this process; not pickled.

        Raises:
            UserError: the URI is misspelt, its scheme is unknown, or it holds credentials.
        """
        check_uri(uri)
        self.uri = uri
        self.conditional = True
        """Whether it honours conditional puts, as found by `check`."""
        self._deadline = deadline_from_environment()
        self._observer = observer
        self._opened = self._open()
        self._opened_in = os.getpid()

    def __repr__(self) -> str:
        return f"Store({self.uri!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        # The file system holds sockets, threads and maybe credentials, which belong to one process.
        return Store, (self.place,)

    @property
    def place(self) -> str:
        """The URI for processes with another working directory: folders are absolute."""
        return self.uri if "://" in self.uri else str(Path(self.uri).expanduser().absolute())

    @property
    def _backend(self) -> Backend:
        if self._opened_in != os.getpid():
            # After a fork, the parent's connections and their threads are missing.
            self._opened = self._open()
            self._opened_in = os.getpid()
        return self._opened

    def _hurried(self, deadline: float) -> Backend:
        """The backend with another deadline, unless its own is shorter."""
        backend = copy(self._backend)
        backend.access = replace(backend.access, deadline=min(self._deadline, deadline))
        return backend

    def _open(self) -> Backend:
        backend = open_backend(self.uri, self._deadline)
        backend.access = replace(backend.access, observer=self._observer)
        return backend

    def check(self) -> bool:
        """Check, before any work, that the store can be used, and if it honours conditional puts.

        Returns:
            True if records are created atomically, so that of two workers that finish the same
            unit, one always notices. Otherwise False, with a warning; `commit` then looks for an
            earlier record just before it writes its own. Objects are named by their content, so two
            workers that commit at once do no harm, but a difference between their results, should
            it ever happen, may go unnoticed.

        Raises:
            StoreError: it cannot be reached, written, read or listed.
        """
        backend = self._hurried(PROBE_DEADLINE)
        # A unique name, so that leftovers of an earlier job are not in the way.
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
        """Write a file twice, read and list it; returns whether the second write was refused."""
        backend.create(path, PROBE)
        refused = not backend.create(path, PROBE)
        if backend.read(path) != PROBE:
            raise StoreError(f"{self.uri}: {path} reads other than it was written")
        folder, _, name = path.rpartition("/")
        if name not in backend.names(folder):
            raise StoreError(f"{self.uri}: {path} was written, and a listing of {folder} lacks it")
        return refused

    def put(self, data: bytes, *, kind: str, model: str, suffix: str) -> ObjectRef:
        """Write an object under the digest of its bytes, unless it was written recently.

        Only equal bytes can have the same path, so overwriting an old object changes nothing, and
        repairs a truncated one.
        """
        digest = digest_bytes(data)
        path = f"objects/{kind}/model={model[:12]}/{digest}.{suffix}"
        found = self._backend.stat(path)
        whole = found is not None and found.size == len(data)
        if not (found and whole and time.time() - found.modified < RENEWED_AFTER):
            self._backend.replace(path, data)
        return ObjectRef(path=path, digest=digest, size=len(data))

    def read(self, ref: ObjectRef) -> bytes:
        """An object's bytes; `load` also handles damage.

        Raises:
            StoreError: the object is missing, or its bytes are not those that were written.
        """
        data, fault = self._examine(ref)
        if data is None or fault:
            raise StoreError(f"{self.uri}: {ref.path} {fault}")
        return data

    def begin(self, ref: ObjectRef, size: int) -> bytes:
        """An object's first bytes, at most `size` and one more; they are not checked.

        Raises:
            StoreError: the object is missing.
        """
        data = self._backend.read(ref.path, min(size, ref.size))
        if data is None:
            raise StoreError(f"{self.uri}: {ref.path} is missing")
        return data

    def load(self, commit: Commit, role: str) -> bytes:
        """The bytes of one object of a committed unit.

        Raises:
            LostUnitError: the object is missing or damaged, or the record names none in that role.
            The unit is set aside and no longer counts as done, so that it can be computed again.
        """
        ref = commit.objects.get(role)
        if ref is None:
            raise self.refused(commit, f'names no object in the role "{role}"')
        data, fault = self._examine(ref)
        if data is not None and not fault:
            return data
        message = f"{self.uri}: {ref.path} {fault}; "
        try:
            message += (
                f"it was set aside, and {commit.kind} {commit.key[:12]} no longer counts as done: "
                "run the job again to compute it"
                if self.set_aside(commit)
                else "it has been made again in the meantime: try again"
            )
        except StoreError as error:
            message += f"it is still in its place ({error})"
        raise LostUnitError(message, kind=commit.kind, key=commit.key, path=ref.path)

    def check_unit(self, commit: Commit, role: str, unit: str) -> None:
        """Compare the unit's key that an object states of itself with its record's.

        Raises:
            LostUnitError: it is another unit's; as in `load`, the unit is set aside.
        """
        if unit != commit.key:
            raise self.refused(
                commit, f'names as "{role}" what says that it is of another unit, {unit:.12}'
            )

    def refused(self, commit: Commit, fault: str) -> LostUnitError:
        """Set aside a record that names what cannot be its unit's; returns the error to raise."""
        path = _commit_path(commit.kind, commit.key)
        message = f"{self.uri}: {path} {fault}; "
        try:
            if self.find(commit.kind, commit.key) == commit:
                self.disown(commit, fault)
            message += "it was set aside: run the job again to compute it"
        except StoreError as error:
            message += f"it is still in its place ({error})"
        return LostUnitError(message, kind=commit.kind, key=commit.key, path=path)

    def set_aside(self, commit: Commit) -> bool:
        """Move a unit's damaged objects, and then its record, to `damaged/` with the same path.

        Returns False if everything is intact after all, or was committed again in the meantime.
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
            # Last, so that the unit is not computed again while its old object is still in the way.
            self._move_aside(_commit_path(commit.kind, commit.key), "names a damaged object")
        return damaged

    def disown(self, commit: Commit, why: str) -> None:
        """Move a record to `damaged/` if its objects, though intact, are not those of its unit."""
        self._move_aside(_commit_path(commit.kind, commit.key), f"is not to be trusted ({why})")

    def commit(self, commit: Commit) -> None:
        """Record that a unit is done; if there are two results, the first record stays.

        Two results may differ only if one was computed in smaller parts for lack of memory.

        Raises:
            NondeterminismError: the unit was committed earlier with other bytes.
            StoreError: its record was there each time it was written, and gone when it was read.
        """
        path = _commit_path(commit.kind, commit.key)
        # Not once only: what was there may be removed, or seem damaged, before it is read.
        for _ in range(WRITES):
            # Check first, because a store that ignores the condition would overwrite it.
            earlier, damaged = self._record(commit.kind, commit.key)
            if earlier is not None:
                break
            if damaged:
                self._move_aside(path, "is damaged")
            if self._backend.create(path, commit.to_bytes()):
                return
        else:
            raise StoreError(f"{self.uri}: {path} is there when it is written, not when it is read")
        if commit.at_once == earlier.at_once and (difference := commit.difference(earlier)):
            raise NondeterminismError(
                f"{commit.kind} {commit.key} is not deterministic: {difference}"
            )

    def find(self, kind: str, key: str) -> Commit | None:
        """The commit record of a unit, or None if it is not done.

        A unit whose record is damaged counts as not done.

        Raises:
            UnknownFormatError: the record is in another format.
        """
        return self._record(kind, key)[0]

    def get(self, kind: str, key: str) -> Commit:
        """The commit record of a unit that should be done.

        Raises:
            LostUnitError: it is not done, or its record was damaged and has been set aside.
        """
        commit, damaged = self._record(kind, key)
        if commit is None:
            path = _commit_path(kind, key)
            message = f"{self.uri}: {kind} {key} is not in the store"
            if damaged:
                message += "; its record was damaged: run the job again to compute it"
                self._move_aside(path, "is damaged")
            raise LostUnitError(message, kind=kind, key=key, path=path)
        return commit

    def committed(self, kind: str) -> frozenset[str]:
        """Keys of all committed units of a kind, from a listing; no record is read."""
        names = self._backend.names(f"commits/{kind}")
        return frozenset(name.removesuffix(".json") for name in names if name.endswith(".json"))

    def runs(self) -> list[str]:
        """Ids of the runs in this store, sorted."""
        # From their files: a local folder may outlive them, and an object store has no folders.
        folders = {entry.path.split("/")[1] for entry in self.entries("runs")}
        return sorted(folder.removeprefix("run=") for folder in folders)

    def write_run_file(self, run: str, name: str, data: bytes) -> None:
        """Write or replace a file of a run (whole, or not at all)."""
        self._backend.replace(f"runs/run={run}/{name}", data)

    def read_run_file(self, run: str, name: str) -> bytes | None:
        """A file of a run, or None if it does not exist."""
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
        """Write a claim (`claims.py`) unless there is one; returns False if there was."""
        # No sync to disk, which is the slowest part: after a power cut nobody holds a claim anyway.
        return self._backend.create(f"claims/{path}", data, durable=False)

    def write_claim(self, path: str, data: bytes, *, deadline: float = math.inf) -> None:
        """Write or replace a claim; `deadline` may shorten the time for retries."""
        self._hurried(deadline).replace(f"claims/{path}", data, durable=False)

    def read_claim(self, path: str) -> bytes | None:
        """A claim, or None if there is none; what is longer than any claim is cut."""
        return self._backend.read(f"claims/{path}", MOST_BYTES_IN["claims"])

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
        """The record of a unit if it is intact, and whether it exists but is damaged."""
        for _ in range(LOOKS):
            data = self._backend.read(_commit_path(kind, key))
            if data is None:
                return None, False
            with contextlib.suppress(ValueError):
                commit = Commit.from_bytes(data)
                # A record copied to another key would return another unit's result.
                if (commit.kind, commit.key) == (kind, key):
                    return commit, False
        return None, True

    def _examine(self, ref: ObjectRef) -> tuple[bytes | None, str]:
        """An object's current bytes, and what is wrong with them."""
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
