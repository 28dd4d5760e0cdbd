"""The store in S3: s3fs does it, and here stands what it leaves open.

Left to s3fs are reading, writing (also on the condition that nothing is there), looking, moving
and removing. Asked of S3 directly, by `call_s3`, is what s3fs would do as one operation that a
fault makes begin again: pages of a listing, of which a large store has thousands, and parts of a
large object; and removing many, because s3fs drops what S3 says of each.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
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

from conceptprune.store.access import SHORTEST_TRY, Access, passes, reason_of
from conceptprune.store.backend import Entry
from conceptprune.store.objects import FsspecObjects

PART_BYTES = 64 * 2**20
"""Larger objects are uploaded in parts of this size, so that a fault costs one part only."""
REMOVED_AT_ONCE = 1000
"""S3's own bound for one request."""
REMOVERS = 8
"""Threads that remove objects one by one, from a store that knows no other way."""

CHECKSUMS_VARIABLE = "AWS_REQUEST_CHECKSUM_CALCULATION"


def file_system_options() -> dict[str, Any]:
    """What s3fs is told of how to ask S3."""
    return {
        # One connection and one request per read: no request for the size first.
        "max_concurrency": 1,
        "config_kwargs": {
            # Tries are counted in one place, and that is `Access`.
            "retries": {"mode": "standard", "total_max_attempts": 1},
            "connect_timeout": 5,
            "read_timeout": 30,
            # The store has its own digests, and botocore would raise where we look twice.
            "response_checksum_validation": "when_required",
            # As trailers, over https, many servers that are not AWS do not know them; without
            # them botocore signs a digest of the body. Buckets with object lock may want them.
            "request_checksum_calculation": os.environ.get(CHECKSUMS_VARIABLE, "when_required"),
        },
    }


PASSING_STATUSES = (408, 409, 425, 429, 500, 502, 503, 504)
PASSING_CODES = ("RequestTimeout", "IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch")
"""Sent with status 400 for a request that was damaged or cut off on its way."""
UNTRUSTED = "CERTIFICATE_VERIFY_FAILED"
"""What OpenSSL says of a certificate by an authority that this machine does not know."""

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
        self._removes_many = True

    def read(self, path: str, size: int = 0) -> bytes | None:
        """An object's bytes, or None where there is none."""

        def read(seconds: float) -> bytes | None:
            try:
                data: bytes = self._fs.cat_file(self._full(path), timeout=seconds)
            except FileNotFoundError as error:
                # A bucket that does not exist is no empty store.
                if _code(error) == "NoSuchBucket":
                    raise OSError(*error.args) from error.__cause__
                return None
            return data

        return self.access.within(f"read {path}", read, size=size)

    def create(self, path: str, data: bytes, *, durable: bool = True) -> bool:
        """Write an object unless it exists, in one request; False where it did.

        After an answer that was lost, the next try finds this very object: False, too.
        """

        def create(seconds: float) -> bool:
            try:
                self._fs.pipe_file(self._full(path), data, mode="create", timeout=seconds)
            except OSError as error:
                status = _status(error)
                if status == 412:
                    return False
                if status != 501:
                    raise
                # A store that knows no conditions says so with 501, "not implemented".
                self.conditional = False
                if self._head(path, seconds) is not None:
                    return False
                self._fs.pipe_file(self._full(path), data, timeout=seconds)
            return True

        return self.access.within(f"write {path}", create, size=len(data))

    def replace(self, path: str, data: bytes, *, durable: bool = True) -> None:
        """Write or replace an object; other readers see it when it is whole."""
        if len(data) > PART_BYTES:
            self._put_parts(path, data)
        else:
            super().replace(path, data, durable=durable)

    def stat(self, path: str) -> Entry | None:
        """What a listing would show of an object, or None where there is none."""
        return self.access.within(f"look for {path}", lambda seconds: self._head(path, seconds))

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
        """Remove objects; those that do not exist are passed over.

        One folder of the store after the other, in the order given, and what cannot be removed
        stops it: a caller may need that a record goes before what it names.
        """
        for _, group in groupby(paths, key=lambda path: path.partition("/")[0]):
            some = list(group)
            for first in range(0, len(some), REMOVED_AT_ONCE):
                self._remove_some(some[first : first + REMOVED_AT_ONCE])

    def _remove_some(self, paths: Sequence[str]) -> None:
        left = self._not_removed_at_once(paths) if len(paths) > 1 else paths
        if len(left) > 1:
            with ThreadPoolExecutor(REMOVERS) as removers:
                # A list, for an error is raised where its result is taken.
                list(removers.map(self._remove_one, left))
        elif left:
            self._remove_one(left[0])

    def _not_removed_at_once(self, paths: Sequence[str]) -> Sequence[str]:
        """Remove objects in one request; those that it did not remove, whatever the reason.

        Not every store knows such requests (Google's answers 501), some want a digest that botocore
        no longer sends (400), and a policy may forbid one object of many. What is the matter with
        an object is said by its own removal, if it is no matter of the common request.
        """
        if not self._removes_many:
            return paths
        keys = [{"Key": self._prefix + path} for path in paths]

        def remove(seconds: float) -> Sequence[str]:
            try:
                answer = self._request(
                    "delete_objects", seconds, Delete={"Objects": keys, "Quiet": True}
                )
            except FAILURES as error:
                if _passes(error):
                    raise
                self._removes_many = False
                return paths
            refused = {error.get("Key") for error in answer.get("Errors", ())}
            return [path for path in paths if self._prefix + path in refused]

        return self.access.within(f"remove {paths[0]} and {len(paths) - 1} more", remove)

    def _pages(self, folder: str, **options: Any) -> Iterator[Any]:
        """Pages of a listing; a fault repeats its page, not the listing."""
        options |= {"Prefix": f"{self._prefix}{folder}/"}
        while True:
            page = self.access.within(
                f"list {folder}",
                lambda seconds: self._request("list_objects_v2", seconds, **options),
            )
            yield page
            if not page.get("IsTruncated"):
                return
            options["ContinuationToken"] = page["NextContinuationToken"]

    def _head(self, path: str, seconds: float) -> Entry | None:
        # Not s3fs's `info`, which also lists where it finds nothing: twice the requests of `put`.
        try:
            found = self._request("head_object", seconds, Key=self._prefix + path)
        except FileNotFoundError:
            return None
        size, modified = found["ContentLength"], found["LastModified"].timestamp()
        return Entry(path=path, size=size, modified=modified)

    def _put_parts(self, path: str, data: bytes) -> None:
        operation = f"write {path}"
        key = self._prefix + path
        begun = self.access.within(
            operation, lambda seconds: self._request("create_multipart_upload", seconds, Key=key)
        )
        upload = {"Key": key, "UploadId": begun["UploadId"]}
        try:
            parts: list[Mapping[str, Any]] = []
            for first in range(0, len(data), PART_BYTES):
                part = data[first : first + PART_BYTES]
                number = len(parts) + 1

                def send(seconds: float, part: bytes = part, number: int = number) -> Any:
                    return self._request(
                        "upload_part", seconds, PartNumber=number, Body=part, **upload
                    )

                answer = self.access.within(operation, send, size=len(part))
                parts.append({"PartNumber": number, "ETag": answer["ETag"]})
            self.access.within(
                operation,
                lambda seconds: self._complete(path, len(data), upload, parts, seconds),
                size=len(data),
            )
        except BaseException:
            # Else the parts would stay, unseen and paid for.
            with contextlib.suppress(*FAILURES):
                self._request("abort_multipart_upload", SHORTEST_TRY, **upload)
            raise

    def _complete(
        self,
        path: str,
        size: int,
        upload: Mapping[str, str],
        parts: Sequence[Mapping[str, Any]],
        seconds: float,
    ) -> None:
        whole = {"Parts": parts}
        try:
            self._request("complete_multipart_upload", seconds, **upload, MultipartUpload=whole)
        except FileNotFoundError:
            # No such upload: an earlier try completed it, and its answer was lost.
            found = self._head(path, seconds)
            if found is None or found.size != size:
                raise

    def _request(self, method: str, seconds: float, **arguments: Any) -> Any:
        return self._fs.call_s3(method, Bucket=self._bucket, timeout=seconds, **arguments)


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
    if UNTRUSTED in str(error):
        return False
    if _response(error):
        return _status(error) in PASSING_STATUSES or _code(error) in PASSING_CODES
    return passes(error) or isinstance(error, PASSING_FAULTS)


def _reason_of(error: Exception) -> str:
    reason = reason_of(error)
    if UNTRUSTED in reason:
        return f"{reason}; name the file with your own authority's certificate in AWS_CA_BUNDLE"
    if not _response(error):
        return reason
    return f"S3 answered {_status(error)} {_code(error)}: {reason}"
