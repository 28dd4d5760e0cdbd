"""Which URIs name a store; misspelt ones are refused, with the right spelling.

Otherwise a misspelt URI would be taken for a folder's name, and a night's work would end up in a
folder `s3:` in some node's working directory.
"""

import re
from pathlib import Path

import fsspec

from conceptprune.errors import UserError
from conceptprune.store.credentials import refuse_credentials

EXAMPLE = "give a folder, or s3://bucket/prefix"

_ARN = re.compile(r"(?:s3a?:/*)?(arn:[^/]*)(.*)", re.IGNORECASE | re.DOTALL)
_BUCKET_ARN = re.compile(r"arn:aws[^:]*:s3:::([^:/]+)", re.IGNORECASE)
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)(:?)([/\\\\]*)(.*)", re.IGNORECASE | re.DOTALL)

_UNUSABLE = {
    "memory": "is held by one process, and no other one sees it",
    "http": "can only be read",
    "https": "can only be read",
    "data": "can only be read",
    "file": "is a folder",
    "local": "is a folder",
}
"""Why these schemes cannot be a store, or cannot name one."""


def check_uri(uri: str) -> None:
    """Refuse URIs that cannot name a store.

    Raises:
        UserError: says what is wrong and how to spell it; credentials are not repeated.
    """
    if not uri.strip():
        raise UserError(f"--store is empty; {EXAMPLE}")
    # Before the check for credentials, because an ARN is full of colons; it is not repeated either.
    if arn := _ARN.fullmatch(uri):
        raise UserError(f"--store: this {_of_arn(arn[1] + arn[2])}")
    refuse_credentials(uri)
    if uri != uri.strip() or any(ord(sign) < 32 for sign in uri):
        raise UserError(
            f"--store {uri!r}: has spaces, line breaks or control characters around or in it; "
            f"write {_clean(uri)}"
        )
    if "::" in uri and uri.split("::")[0] in fsspec.available_protocols():
        raise UserError(f"--store {uri}: a chain of file systems cannot be a store; {EXAMPLE}")
    _check_scheme(uri)
    if uri.startswith("~"):
        try:
            Path(uri).expanduser()
        except RuntimeError as error:
            raise UserError(f"--store {uri}: this machine knows no home of that user") from error


def odd_prefix(uri: str) -> bool:
    """Whether a prefix has parts that some servers cannot handle: empty ones, backslashes."""
    return "://" in uri and ("//" in uri.split("://", 1)[1].rstrip("/") or "\\" in uri)


def _check_scheme(uri: str) -> None:
    found = _SCHEME.fullmatch(uri)
    if not found:
        return
    scheme, colon, slashes, rest = found.groups()
    known = scheme.lower()
    if known not in fsspec.available_protocols() or not (colon or len(slashes) > 1):
        return
    refuse_credentials(f"{known}://{rest}")
    if known in ("http", "https"):
        raise UserError(
            f"--store {uri}: {known} {_UNUSABLE[known]}; {EXAMPLE}, and the address of an S3 "
            "server that is not AWS in AWS_ENDPOINT_URL"
        )
    if known in ("file", "local"):
        # With two slashes, what follows would be a host.
        if (scheme, colon, slashes) == (known, ":", "///"):
            return
        raise UserError(f"--store {uri}: is not a folder's name; write /{rest}")
    if known in _UNUSABLE:
        raise UserError(f"--store {uri}: {known}:// {_UNUSABLE[known]}; {EXAMPLE}")
    path = rest.replace("\\", "/").strip("/")
    if not path:
        raise UserError(f"--store {uri}: names no bucket; {EXAMPLE.replace('s3', known)}")
    if (scheme, colon, slashes) != (known, ":", "//"):
        raise UserError(f"--store {uri}: write {known}://{path}")
    if {".", ".."} & set(path.split("/")):
        raise UserError(
            f"--store {uri}: in an object store . and .. are names like any other, and some "
            "servers take them for folders; give the prefix without them"
        )


def _of_arn(arn: str) -> str:
    """What to use instead of an ARN."""
    if bucket := _BUCKET_ARN.match(arn):
        rest = arn[bucket.end() :].rstrip("*").rstrip("/")
        return f"is the ARN of a bucket; write s3://{bucket[1]}{rest}"
    if "accesspoint" in arn:
        return (
            "is the ARN of an access point; give the alias that S3 made for it in place of the "
            "bucket, s3://NAME-...-s3alias/prefix (`aws s3control get-access-point` shows it)"
        )
    return f"is an ARN; {EXAMPLE}"


def _clean(uri: str) -> str:
    return "".join(sign for sign in uri if ord(sign) >= 32).strip()
