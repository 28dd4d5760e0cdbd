"""The store in S3, on top of s3fs.

s3fs reads, writes (also only if nothing is there), moves and removes objects. Some requests go to
S3 through its `call_s3`, because s3fs would restart the whole operation after an error: pages of a
listing (thousands for a large store) and parts of a large object. Look-ups, too, because s3fs lists
what it does not find; and bulk deletes, because it drops S3's answer for each object.
"""

import contextlib
import errno
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
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
)
from botocore.exceptions import ConnectionError as UnreachableError
from botocore.parsers import ResponseParserError  # type: ignore[import-untyped]

from conceptprune.errors import UserError
from conceptprune.store.access import SHORTEST_TRY, Access, passes, reason_of
from conceptprune.store.backend import Entry, most_bytes
from conceptprune.store.objects import FsspecObjects

PART_BYTES = 64 * 2**20
"""Larger objects are uploaded in parts of this size, so that a fault costs one part only."""
REMOVED_AT_ONCE = 1000
"""S3's limit for one request."""
REMOVERS = 8
"""Threads that remove objects one by one, for stores without bulk deletes."""

CHECKSUMS_VARIABLE = "AWS_REQUEST_CHECKSUM_CALCULATION"
CHECKSUMS = ("when_required", "when_supported")
AUTHORITY_VARIABLE = "AWS_CA_BUNDLE"


def file_system_options() -> dict[str, Any]:
    """Options of s3fs for requests to S3.

    Raises:
        UserError: a variable of the environment has a value that S3 cannot be asked with.
    """
    checksums = os.environ.get(CHECKSUMS_VARIABLE) or CHECKSUMS[0]
    if checksums.lower() not in CHECKSUMS:
        raise UserError(f"{CHECKSUMS_VARIABLE}={checksums}: give {' or '.join(CHECKSUMS)}")
    authority = os.environ.get(AUTHORITY_VARIABLE)
    # botocore would name neither the file nor the variable, and count it as a transient error.
    if authority and not os.access(authority, os.R_OK):
        raise UserError(
            f"{AUTHORITY_VARIABLE}={authority}: cannot be read; name a file of certificates, or "
            "unset it to trust the usual authorities"
        )
    return {
        # One connection and one request per read, without asking for the size first.
        "max_concurrency": 1,
        "config_kwargs": {
            # Retries belong in one place, which is `Access`.
            "retries": {"mode": "standard", "total_max_attempts": 1},
            "connect_timeout": 5,
            "read_timeout": 30,
            # The store has its own digests, and reads damaged bytes twice where botocore would
            # raise.
            "response_checksum_validation": "when_required",
            # Many servers that are not AWS do not support checksums as trailers over https; without
            # them, botocore signs a digest of the body. Buckets with object lock may require them.
            "request_checksum_calculation": checksums,
        },
    }


PASSING_STATUSES = (408, 409, 425, 429, 500, 502, 503, 504)
PASSING_CODES = ("RequestTimeout", "IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch")
"""Sent with status 400 for a request that was damaged or cut off in transit."""
UNTRUSTED = "CERTIFICATE_VERIFY_FAILED"
"""OpenSSL's message about a certificate from an authority unknown to this machine."""
NO_TLS = "WRONG_VERSION_NUMBER"
"""OpenSSL's message about a server that does not speak https."""

ADVICE_BY_TYPE = {
    NoCredentialsError: "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give "
    "this machine a role",
    PartialCredentialsError: "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY both, or neither",
    ProfileNotFound: "give AWS_PROFILE a name that is in ~/.aws/config or ~/.aws/credentials",
}
ADVICE_BY_TEXT = {
    UNTRUSTED: f"name the file with your own authority's certificate in {AUTHORITY_VARIABLE}",
    NO_TLS: "the server does not speak https: write http:// in AWS_ENDPOINT_URL",
    "Invalid endpoint": "give AWS_ENDPOINT_URL as https://HOST:PORT or http://HOST:PORT",
}
"""What to do about errors that only a change of the settings ends."""

PASSING_FAULTS = (
    UnreachableError,
    HTTPClientError,
    IncompleteReadError,
    ResponseParserError,
    TransportError,
)
# ValueError: raised by botocore for an endpoint that is not a URL.
FAILURES = (OSError, ValueError, BotoCoreError, ClientError, ResponseParserError, TransportError)


def s3_access(uri: str, deadline: float) -> Access:
    """An `Access` that knows S3's errors."""
    return Access(
        uri=uri, deadline=deadline, failures=FAILURES, passes=_passes, reason_of=_reason_of
    )


class S3Objects(FsspecObjects):
    """Objects below a prefix of a bucket."""

    def __init__(self, fs: Any, root: str, access: Access) -> None:
        super().__init__(fs, root, access)
        # For the same reason as `retries` above; this is s3fs's own setting.
        fs.retries = 1
        self._bucket, _, prefix = root.partition("/")
        self._prefix = f"{prefix}/" if prefix else ""
        self._removes_many = True

    def read(self, path: str, size: int = 0) -> bytes | None:
        """An object's bytes, or None if it does not exist."""

        def read(seconds: float) -> bytes | None:
            try:
                # An object larger than recorded is damaged, so there is no need to read all of it.
                most = (size or most_bytes(path)) + 1
                data: bytes = self._fs.cat_file(
                    self._full(path), start=0, end=most, timeout=seconds
                )
            except FileNotFoundError as error:
                # A missing bucket is not an empty store.
                if _code(error) == "NoSuchBucket":
                    raise OSError(*error.args) from error.__cause__
                return None
            except OSError as error:
                if _status(error) == 416:
                    return b""  # It has no bytes, and so no first ones.
                raise
            if not size and len(data) == most:
                raise OSError(errno.EFBIG, f"larger than {most - 1:,} bytes")
            return data

        return self.access.within(f"read {path}", read, size=size)

    def create(self, path: str, data: bytes, *, durable: bool = True) -> bool:
        """Write an object unless it exists, in one request; returns False if it did.

        If the answer was lost, the retry finds this very object, and also returns False.
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
                # A store without conditional puts answers 501, "not implemented".
                self.conditional = False
                if self._head(path, seconds) is not None:
                    return False
                self._fs.pipe_file(self._full(path), data, timeout=seconds)
            return True

        return self.access.within(f"write {path}", create, size=len(data))

    def replace(self, path: str, data: bytes, *, durable: bool = True) -> None:
        """Write or replace an object; other readers see it only once it is complete."""
        if len(data) > PART_BYTES:
            self._put_parts(path, data)
        else:
            super().replace(path, data, durable=durable)

    def stat(self, path: str) -> Entry | None:
        """An object's entry in a listing, or None if it does not exist."""
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
        """Remove objects; missing ones are ignored.

        Folders of the store are handled one after another, in the given order, and an error stops
        the rest: a caller may need a record to be removed before the objects it names.
        """
        for _, group in groupby(paths, key=lambda path: path.partition("/")[0]):
            some = list(group)
            for first in range(0, len(some), REMOVED_AT_ONCE):
                self._remove_some(some[first : first + REMOVED_AT_ONCE])

    def _remove_some(self, paths: Sequence[str]) -> None:
        left = self._not_removed_at_once(paths) if len(paths) > 1 else paths
        if len(left) > 1:
            with ThreadPoolExecutor(REMOVERS) as removers:
                # A list, because an error is only raised when its result is taken.
                list(removers.map(self._remove_one, left))
        elif left:
            self._remove_one(left[0])

    def _not_removed_at_once(self, paths: Sequence[str]) -> Sequence[str]:
        """Remove objects in one request; returns those that were not removed, for whatever reason.

        Some stores lack such requests (Google's answers 501), some want a digest that botocore no
        longer sends (400), and a policy may forbid one object of many. The objects are then removed
        one by one, which shows what is wrong with each.
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
        """Pages of a listing; an error repeats its page, not the whole listing."""
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
        # Not s3fs's `info`, which also lists if it finds nothing, and doubles the requests of
        # `put`.
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
            # Otherwise the parts would stay, invisible but billed.
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
            # No such upload: an earlier try completed it, but the answer was lost.
            found = self._head(path, seconds)
            if found is None or found.size != size:
                raise

    def _request(self, method: str, seconds: float, **arguments: Any) -> Any:
        return self._fs.call_s3(method, Bucket=self._bucket, timeout=seconds, **arguments)


def _response(error: BaseException) -> Mapping[str, Any]:
    """S3's answer in an error, or in its cause if s3fs translated it; empty if there is none."""
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
    if UNTRUSTED in str(error) or NO_TLS in str(error):
        return False
    if _response(error):
        return _status(error) in PASSING_STATUSES or _code(error) in PASSING_CODES
    return passes(error) or isinstance(error, PASSING_FAULTS)


def _reason_of(error: Exception) -> str:
    reason = reason_of(error)
    advice = ADVICE_BY_TYPE.get(type(error))
    if not _response(error):
        advice = advice or next((do for text, do in ADVICE_BY_TEXT.items() if text in reason), None)
    if advice:
        return f"{reason}; {advice}"
    if not _response(error):
        return reason
    return f"S3 answered {_status(error)} {_code(error)}: {reason}"
