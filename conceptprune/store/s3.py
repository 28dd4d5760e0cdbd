"""The store in S3: one request, one retry policy, and the conditions that fsspec does not tell."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from aiohttp import ClientError as TransportError
from botocore.exceptions import (  # type: ignore[import-untyped]
    BotoCoreError,
    ClientError,
    HTTPClientError,
    IncompleteReadError,
)
from botocore.exceptions import ConnectionError as UnreachableError
from botocore.parsers import ResponseParserError  # type: ignore[import-untyped]

from conceptprune.store.access import Access, passes, reason_of
from conceptprune.store.backend import Entry
from conceptprune.store.objects import FsspecObjects

PART_BYTES = 64 * 2**20
"""Larger objects are uploaded in parts of this size, so that a fault costs one part only."""
REMOVED_AT_ONCE = 1000
"""S3's own bound for one request."""

FILE_SYSTEM_OPTIONS: Mapping[str, Any] = {
    # One connection and one request per read: no request for the size first.
    "max_concurrency": 1,
    "config_kwargs": {
        # Tries are counted in one place, and that is `Access`.
        "retries": {"mode": "standard", "total_max_attempts": 1},
        "connect_timeout": 5,
        "read_timeout": 30,
        # The store has its own digests, and botocore would raise where we look twice.
        "response_checksum_validation": "when_required",
    },
}

PASSING_STATUSES = (408, 409, 425, 429, 500, 502, 503, 504)
PASSING_CODES = ("RequestTimeout", "IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch")
"""Sent with status 400 for a request that was damaged or cut off on its way."""

PASSING_FAULTS = (
    UnreachableError,
    HTTPClientError,
    IncompleteReadError,
    ResponseParserError,
    TransportError,
)
# ValueError: what botocore makes of an endpoint that is no URL.
FAILURES = (OSError, ValueError, BotoCoreError, ClientError, ResponseParserError, TransportError)


def s3_access(uri: str, deadline: float) -> Access:
    """Access that knows S3's errors."""
    return Access(
        uri=uri, deadline=deadline, failures=FAILURES, passes=_passes, reason_of=_reason_of
    )


class S3Objects(FsspecObjects):
    """Objects below a prefix of a bucket."""

    def __init__(self, fs: Any, root: str, access: Access) -> None:
        super().__init__(fs, root, access)
        # For the same reason as `retries` above: this is s3fs's own count.
        fs.retries = 1
        self._bucket, _, prefix = root.partition("/")
        self._prefix = f"{prefix}/" if prefix else ""

    def read(self, path: str) -> bytes | None:
        """An object's bytes, or None where there is none."""

        def read() -> bytes | None:
            try:
                data: bytes = self._fs.cat_file(self._full(path))
            except FileNotFoundError as error:
                # A bucket that does not exist is no empty store.
                if _code(error) == "NoSuchBucket":
                    raise OSError(*error.args) from error.__cause__
                return None
            return data

        return self.access(f"read {path}", read)

    def create(self, path: str, data: bytes, *, durable: bool = True) -> bool:
        """Write an object unless it exists, in one request; False where it did.

        After an answer that was lost, the next try finds this very object: False, too.
        """

        def create() -> bool:
            try:
                self._put(path, data, IfNoneMatch="*")
            except OSError as error:
                status = _status(error)
                if status == 412:
                    return False
                if status != 501:
                    raise
                # A store that knows no conditions says so with 501, "not implemented".
                self.conditional = False
                if self._head(path) is not None:
                    return False
                self._put(path, data)
            return True

        return self.access(f"write {path}", create)

    def replace(self, path: str, data: bytes, *, durable: bool = True) -> None:
        """Write or replace an object; other readers see it when it is whole."""
        if len(data) > PART_BYTES:
            self._put_parts(path, data)
        else:
            self.access(f"write {path}", lambda: self._put(path, data))

    def stat(self, path: str) -> Entry | None:
        """What a listing would show of an object, or None where there is none."""
        return self.access(f"look for {path}", lambda: self._head(path))

    def names(self, folder: str) -> Iterator[str]:
        """Names of the objects and folders in a folder."""
        for page in self._pages(folder, Delimiter="/"):
            for listed in page.get("CommonPrefixes", ()):
                yield listed["Prefix"].rstrip("/").rpartition("/")[2]
            for listed in page.get("Contents", ()):
                yield listed["Key"].rpartition("/")[2]

    def entries(self, folder: str) -> Iterator[Entry]:
        """All objects below a folder."""
        for page in self._pages(folder):
            for listed in page.get("Contents", ()):
                yield Entry(
                    path=listed["Key"].removeprefix(self._prefix),
                    size=listed["Size"],
                    modified=listed["LastModified"].timestamp(),
                )

    def remove(self, paths: Sequence[str]) -> None:
        """Remove objects; those that do not exist are passed over."""
        for first in range(0, len(paths), REMOVED_AT_ONCE):
            some = paths[first : first + REMOVED_AT_ONCE]
            keys = [{"Key": self._prefix + path} for path in some]

            def remove(keys: Sequence[Mapping[str, str]] = keys) -> None:
                answer = self._request("delete_objects", Delete={"Objects": keys, "Quiet": True})
                for error in answer.get("Errors", ()):
                    raise OSError(f"{error.get('Key')}: {error.get('Code')}")

            self.access(f"remove {some[0]} and {len(some) - 1} more", remove)

    def _pages(self, folder: str, **options: Any) -> Iterator[Any]:
        """Pages of a listing; a fault repeats its page, not the listing."""
        options |= {"Prefix": f"{self._prefix}{folder}/"}
        while True:
            page = self.access(
                f"list {folder}", lambda: self._request("list_objects_v2", **options)
            )
            yield page
            if not page.get("IsTruncated"):
                return
            options["ContinuationToken"] = page["NextContinuationToken"]

    def _head(self, path: str) -> Entry | None:
        try:
            found = self._request("head_object", Key=self._prefix + path)
        except FileNotFoundError:
            return None
        size, modified = found["ContentLength"], found["LastModified"].timestamp()
        return Entry(path=path, size=size, modified=modified)

    def _put(self, path: str, data: bytes, **conditions: str) -> None:
        self._request("put_object", Key=self._prefix + path, Body=data, **conditions)

    def _put_parts(self, path: str, data: bytes) -> None:
        operation = f"write {path}"
        key = self._prefix + path
        begun = self.access(operation, lambda: self._request("create_multipart_upload", Key=key))
        upload = {"Key": key, "UploadId": begun["UploadId"]}
        try:
            parts: list[Mapping[str, Any]] = []
            for first in range(0, len(data), PART_BYTES):
                number = len(parts) + 1
                upload_part = partial(
                    self._request,
                    "upload_part",
                    PartNumber=number,
                    Body=data[first : first + PART_BYTES],
                    **upload,
                )
                answer = self.access(operation, upload_part)
                parts.append({"PartNumber": number, "ETag": answer["ETag"]})
            self.access(operation, lambda: self._complete(path, len(data), upload, parts))
        except BaseException:
            # Else the parts would stay, unseen and paid for.
            with contextlib.suppress(*FAILURES):
                self._request("abort_multipart_upload", **upload)
            raise

    def _complete(
        self, path: str, size: int, upload: Mapping[str, str], parts: Sequence[Mapping[str, Any]]
    ) -> None:
        try:
            self._request("complete_multipart_upload", **upload, MultipartUpload={"Parts": parts})
        except FileNotFoundError:
            # No such upload: an earlier try completed it, and its answer was lost.
            found = self._head(path)
            if found is None or found.size != size:
                raise

    def _request(self, method: str, **arguments: Any) -> Any:
        return self._fs.call_s3(method, Bucket=self._bucket, **arguments)


def _response(error: BaseException) -> Mapping[str, Any]:
    """S3's answer in an error, or behind one that s3fs translated; empty where there was none."""
    for source in (error, error.__cause__):
        if isinstance(source, ClientError):
            answer: Mapping[str, Any] = source.response
            return answer
    return {}


def _status(error: BaseException) -> int | None:
    status: int | None = _response(error).get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status


def _code(error: BaseException) -> str:
    return str(_response(error).get("Error", {}).get("Code", ""))


def _passes(error: BaseException) -> bool:
    if _response(error):
        return _status(error) in PASSING_STATUSES or _code(error) in PASSING_CODES
    return passes(error) or isinstance(error, PASSING_FAULTS)


def _reason_of(error: Exception) -> str:
    if not _response(error):
        return reason_of(error)
    return f"S3 answered {_status(error)} {_code(error)}: {reason_of(error)}"
