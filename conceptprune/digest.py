"""Content digests: one canonical JSON form and SHA-256, used for every identity in the system."""

import errno
import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from conceptprune.strict_reading import open_regular

METHOD_VERSION = 2
"""Increased when a code change alters a unit's numbers, so that old results are not reused."""


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, no spaces and no NaN: equal values give equal text."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )


def digest_json(value: Any) -> str:
    """SHA-256 of the canonical JSON of `value`, as 64 hexadecimal digits."""
    return digest_bytes(canonical_json(value).encode("ascii"))


def digest_bytes(data: bytes | memoryview) -> str:
    """SHA-256 of `data`, as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 of a file's content, as 64 hexadecimal digits.

    Raises:
        OSError: it cannot be read, or is a pipe, which would be waited for, or a device.
    """
    try:
        with open_regular(path) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except ValueError as error:
        raise OSError(errno.EINVAL, f"{error}", f"{path}") from error


def known_file_digest(path: Path) -> str:
    """The same, but the file is read again only if its size or times have changed."""
    found = path.stat()
    times = (found.st_mtime_ns, found.st_ctime_ns)
    return _known_file_digest(path, found.st_ino, found.st_size, times)


@lru_cache(maxsize=1024)
def _known_file_digest(path: Path, _inode: int, _size: int, _times: tuple[int, int]) -> str:
    return digest_file(path)


def seed_from(what: str, *, bits: int) -> int:
    """The first `bits` (at most 64) of a text's SHA-256: a seed that depends only on the text.

    Python's own `hash` differs from one process to the next.
    """
    return int.from_bytes(hashlib.sha256(what.encode()).digest()[:8], "big") >> (64 - bits)


def unit_key(parts: Mapping[str, Any]) -> str:
    """Key of a unit: the digest of everything that decides its result."""
    return digest_json({"method": METHOD_VERSION, **parts})
