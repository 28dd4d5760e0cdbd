"""Models in a remote place, s3:// or another that fsspec knows: one copy on each node.

All workers of a node load the same files, and memory-mapped weights are then in its memory once.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from conceptprune import progress
from conceptprune.digest import digest_json
from conceptprune.errors import StoreError, UserError
from conceptprune.models.node_cache import cache_folder, made_once

VERSION_KEYS = ("ETag", "mtime", "LastModified", "created")
"""What a file system's listing may tell of a file's version, the most telling first."""

Listing = Mapping[str, tuple[int, str]]
"""Files below a place by their path there: size in bytes, and a version."""


def listing_digest(uri: str, files: Sequence[str]) -> str:
    """Digest of what there is of a model just now, told from a listing alone.

    Raises:
        UserError: the place has none of the `files`.
        StoreError: it cannot be listed.
    """
    with _told(uri):
        return _digest(uri, _list(uri, files))


def fetched(uri: str, files: Sequence[str], expected: str | None = None) -> Path:
    """This node's copy of those files of a model that match a pattern of `files`.

    The first worker fetches it while others wait for it; a fetch that was cut short is begun anew.

    Raises:
        UserError: the place is not what it was when `expected` was its digest.
        StoreError: it cannot be read.
    """
    with _told(uri):
        listing = _list(uri, files)
        digest = _digest(uri, listing)
        if expected not in (None, digest):
            raise UserError(
                f"model: {uri} has changed since this job began; start it again, or put each "
                "version in a place of its own"
            )
        copy = cache_folder() / "models" / digest[:32]
        return made_once(copy, lambda partial: _fetch(uri, listing, partial))


def _fetch(uri: str, listing: Listing, out: Path) -> None:
    fs, root = fsspec.core.url_to_fs(uri)
    for path, (size, _) in listing.items():
        local = out / path
        local.parent.mkdir(parents=True, exist_ok=True)
        fs.get_file(f"{root.rstrip('/')}/{path}", str(local))
        if local.stat().st_size != size:
            raise OSError(f"{path} has {local.stat().st_size} bytes instead of {size}")
        progress.made()


def _list(uri: str, files: Sequence[str]) -> Listing:
    fs, root = fsspec.core.url_to_fs(uri)
    # Listings of a long-lived process may be old.
    fs.invalidate_cache()
    root = root.rstrip("/")
    found: dict[str, tuple[int, str]] = {}
    for name, entry in sorted(fs.find(root, detail=True).items()):
        path = name.removeprefix(root).lstrip("/")
        if not any(fnmatch(path, pattern) for pattern in files):
            continue
        if ".." in PurePosixPath(path).parts:
            raise UserError(f"model: {uri} has a file of the name {path!r}, which is refused")
        found[path] = (int(entry["size"]), _version(entry))
    if not found:
        raise UserError(f"model: {uri} has no file of a model ({', '.join(files)})")
    return found


def _version(entry: Mapping[str, Any]) -> str:
    return next((str(entry[key]) for key in VERSION_KEYS if entry.get(key)), "")


def _digest(uri: str, listing: Listing) -> str:
    return digest_json([uri, {path: list(entry) for path, entry in listing.items()}])


@contextmanager
def _told(uri: str) -> Iterator[None]:
    """Errors of the place as a `StoreError`, so that a job tries again."""
    try:
        yield
    except UserError:
        raise
    # Each library behind fsspec has errors of its own.
    except Exception as error:
        raise StoreError(
            f"model: cannot read {uri}: {type(error).__name__}: {str(error)[:200]}"
        ) from error
