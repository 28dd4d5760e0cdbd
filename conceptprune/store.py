"""The artifact store: immutable objects under content digests, and commit records written last.

    objects/<kind>/model=<m>/<sha256>.<suffix>   data, never changed once written
    commits/<kind>/<key>.json                    "the work `key` is done, and these are its objects"
    runs/run=<id>/...                            what each run planned and what became of it

A local folder and an object store (`s3://...`) behave alike. The file system is built inside the
process that uses it, with listing caches off.
"""

import contextlib
import io
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from conceptprune.digest import canonical_json, digest_bytes
from conceptprune.errors import StoreError, UserError

FORMAT = "conceptprune.store/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectRef:
    """Where an object lies in the store, and what its bytes must be."""

    path: str
    digest: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """The record that a piece of work is done."""

    kind: str
    key: str
    objects: Mapping[str, ObjectRef]
    """By role ("statistics", "state"), so that a later reader finds what it needs."""
    provenance: Mapping[str, Any]
    """How it was made (seconds, worker, versions); takes no part in comparisons."""

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return canonical_json({"format": FORMAT, **asdict(self)}).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Commit":
        """The inverse of `to_bytes`."""
        content = json.loads(data)
        objects = {role: ObjectRef(**ref) for role, ref in content["objects"].items()}
        return cls(
            kind=content["kind"],
            key=content["key"],
            objects=objects,
            provenance=content["provenance"],
        )


class Store:
    """Artifacts below one URI: a local path, or any that fsspec knows (`s3://bucket/prefix`)."""

    def __init__(self, uri: str) -> None:
        """Open a store; nothing is written before the first object.

        Raises:
            UserError: the URI's scheme is unknown.
        """
        self.uri = uri
        try:
            self._fs, root = fsspec.core.url_to_fs(
                uri, use_listings_cache=False, skip_instance_cache=True
            )
        except (ValueError, ImportError) as error:
            raise UserError(f"--store {uri}: {error}") from error
        self._root = root.rstrip("/")
        self._local = self._fs.protocol in ("file", ("file", "local"))

    def put(self, data: bytes, *, kind: str, model: str, suffix: str) -> ObjectRef:
        """Write an object under the digest of its bytes; a second time writes nothing."""
        digest = digest_bytes(data)
        path = f"objects/{kind}/model={model[:12]}/{digest}.{suffix}"
        self._create(path, data)
        return ObjectRef(path=path, digest=digest, size=len(data))

    def read(self, ref: ObjectRef) -> bytes:
        """An object's bytes.

        Raises:
            StoreError: the object is missing, or its bytes are not those that were written.
        """
        data = self._read(ref.path)
        if data is None:
            raise StoreError(f"{self.uri}: {ref.path} is missing")
        if digest_bytes(data) != ref.digest:
            raise StoreError(
                f"{self.uri}: {ref.path} is damaged: its SHA-256 is {digest_bytes(data)}"
            )
        return data

    def commit(self, commit: Commit) -> None:
        """Record that work is done; of two equal results the first record stays.

        Raises:
            StoreError: the work was committed before with other bytes (it is not deterministic).
        """
        path = _commit_path(commit.kind, commit.key)
        if self._create(path, commit.to_bytes()):
            return
        earlier = self.find(commit.kind, commit.key)
        if earlier is None:
            raise StoreError(f"{self.uri}: {path} was removed while it was being written")
        for role, ref in commit.objects.items():
            if earlier.objects[role].digest != ref.digest:
                raise StoreError(
                    f"{commit.kind} {commit.key} is not deterministic: its {role} was "
                    f"{earlier.objects[role].digest} and is now {ref.digest}"
                )

    def find(self, kind: str, key: str) -> Commit | None:
        """The commit record of a piece of work, or None where it is not done."""
        data = self._read(_commit_path(kind, key))
        return None if data is None else Commit.from_bytes(data)

    def get(self, kind: str, key: str) -> Commit:
        """The commit record of a piece of work.

        Raises:
            StoreError: it is not done.
        """
        commit = self.find(kind, key)
        if commit is None:
            raise StoreError(f"{self.uri}: {kind} {key} is not in the store")
        return commit

    def committed(self, kind: str) -> frozenset[str]:
        """Keys of all work of a kind that is done."""
        names = self._names(f"commits/{kind}")
        return frozenset(name.removesuffix(".json") for name in names if name.endswith(".json"))

    def runs(self) -> list[str]:
        """Ids of the runs this store knows, sorted."""
        return sorted(name.removeprefix("run=") for name in self._names("runs"))

    def write_run_file(self, run: str, name: str, data: bytes) -> None:
        """Write or replace a file of a run (whole, or not at all)."""
        self._replace(f"runs/run={run}/{name}", data)

    def read_run_file(self, run: str, name: str) -> bytes | None:
        """A file of a run, or None where there is none."""
        return self._read(f"runs/run={run}/{name}")

    def _names(self, folder: str) -> list[str]:
        try:
            listed = self._fs.ls(f"{self._root}/{folder}", detail=False)
        except FileNotFoundError:
            return []
        return [path.rstrip("/").rsplit("/", 1)[-1] for path in listed]

    def _read(self, path: str) -> bytes | None:
        try:
            data: bytes = self._fs.cat_file(f"{self._root}/{path}")
        except FileNotFoundError:
            return None
        return data

    def _create(self, path: str, data: bytes) -> bool:
        """Write unless it exists already; False where it did. Never leaves half a file."""
        full = f"{self._root}/{path}"
        if self._local:
            with _written_beside(Path(full), data) as temporary:
                try:
                    os.link(temporary, full)
                except FileExistsError:
                    return False
            return True
        try:
            self._fs.pipe_file(full, data, mode="create")
        except FileExistsError:
            return False
        return True

    def _replace(self, path: str, data: bytes) -> None:
        full = f"{self._root}/{path}"
        if self._local:
            with _written_beside(Path(full), data) as temporary:
                temporary.replace(full)
        else:
            self._fs.pipe_file(full, data)


@contextlib.contextmanager
def _written_beside(path: Path, data: bytes) -> Any:
    """A temporary file in the same folder that holds `data`; gone afterwards if still there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o644)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _commit_path(kind: str, key: str) -> str:
    return f"commits/{kind}/{key}.json"


def table_to_parquet(table: pa.Table) -> bytes:
    """Parquet bytes, equal for equal tables: fixed codec, page checksums, no time stamps."""
    sink = io.BytesIO()
    # Sums hardly ever repeat: a dictionary of them would only be carried along.
    words = [field.name for field in table.schema if pa.types.is_string(field.type)]
    pq.write_table(table, sink, compression="zstd", use_dictionary=words, write_page_checksum=True)
    return sink.getvalue()


def parquet_to_table(data: bytes) -> pa.Table:
    """The inverse of `table_to_parquet`; page checksums are verified."""
    return pq.read_table(io.BytesIO(data), page_checksum_verification=True)
