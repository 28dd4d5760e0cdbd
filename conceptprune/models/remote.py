"""Models at a remote URI (s3:// or any other that fsspec reads): one copy per node.

All workers of a node load the same files, so memory-mapped weights are in its memory only once.
"""

import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from functools import partial
from pathlib import Path, PurePosixPath
from threading import Thread
from typing import Any, TypeVar

import fsspec

from conceptprune import progress
from conceptprune.digest import digest_json
from conceptprune.errors import StoreError, UserError
from conceptprune.models.node_cache import cache_folder, made_once
from conceptprune.models.weights import CHECKPOINT_NAMES
from conceptprune.redaction import shortened

T = TypeVar("T")

SILENCE = 300.0
"""Seconds without a byte after which a remote call is given up."""
SECONDS_BETWEEN_LOOKS = 0.5

VERSION_KEYS = ("ETag", "mtime", "LastModified", "created")
"""Keys of a listing that may hold a file's version, the most reliable first."""

VARIANT = re.compile(
    rf"(?P<folder>[^/]*)/(?P<stem>{'|'.join(CHECKPOINT_NAMES)})"
    r"(\.[^.-]+(-\d+-of-\d+)?\.safetensors|-\d+-of-\d+\.[^.]+\.safetensors"
    r"|\.safetensors\.index\.[^.]+\.json)"
)
"""Paths of files of a variant, in all spellings of diffusers and transformers."""

Listing = Mapping[str, tuple[int, str]]
"""Files below a URI, by relative path: size in bytes, and version."""


def listing_digest(uri: str, files: Sequence[str]) -> str:
    """Digest of a remote model's current files, from a listing alone.

    Raises:
        UserError: the URI has none of the `files`.
        StoreError: it cannot be listed.
    """
    with _told(uri):
        return _digest(uri, _list(uri, files))


def fetched(uri: str, files: Sequence[str], expected: str | None = None) -> Path:
    """This node's copy of the model files that match a pattern of `files`.

    The first worker downloads it while the others wait; an interrupted download starts again.

    Raises:
        UserError: the files have changed: their digest is not `expected`.
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
        get = partial(fs.get_file, f"{root.rstrip('/')}/{path}", str(local))
        _while_it_moves(get, lambda: _bytes_in(out), f"reading {path}")
        if local.stat().st_size != size:
            raise OSError(f"{path} has {local.stat().st_size} bytes instead of {size}")
        progress.made()


def _list(uri: str, files: Sequence[str]) -> Listing:
    fs, root = fsspec.core.url_to_fs(uri)
    # A long-lived process may have cached an old listing.
    fs.invalidate_cache()
    root = root.rstrip("/")
    found: dict[str, tuple[int, str]] = {}
    find = partial(fs.find, root, detail=True)
    for name, entry in sorted(_while_it_moves(find, lambda: 0, "listing it").items()):
        path = name.removeprefix(root).lstrip("/")
        if not any(fnmatch(path, pattern) for pattern in files):
            continue
        if ".." in PurePosixPath(path).parts:
            raise UserError(f"model: {uri} has a file of the name {path!r}, which is refused")
        found[path] = (int(entry["size"]), _version(entry))
    for path in _needless(found):
        del found[path]
    if not found:
        raise UserError(f"model: {uri} has no file of a model ({', '.join(files)})")
    return found


def _needless(paths: Collection[str]) -> list[str]:
    """Variants of weights (such as fp16) beside the plain ones, which are those that are loaded."""
    plain = {
        (folder, stem)
        for folder, _, name in (path.rpartition("/") for path in paths)
        for stem in CHECKPOINT_NAMES
        if name in (f"{stem}.safetensors", f"{stem}.safetensors.index.json")
    }
    variants = ((path, VARIANT.fullmatch(path)) for path in paths)
    return [path for path, found in variants if found and found.group("folder", "stem") in plain]


def _while_it_moves(call: Callable[[], T], moved: Callable[[], int], what: str) -> T:
    """The result of a remote call, which is left alone once `moved` stays the same for `SILENCE`.

    Not every library behind fsspec has a time limit of its own.

    Raises:
        TimeoutError: nothing has moved for so long.
    """
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(call())
        except BaseException as error:
            done.set_exception(error)

    # Of a daemon: a call that never returns must not keep the process from ending.
    Thread(target=run, daemon=True).start()
    seen, since = moved(), time.monotonic()
    while not wait([done], timeout=SECONDS_BETWEEN_LOOKS).done:
        if (now := moved()) != seen:
            seen, since = now, time.monotonic()
        elif time.monotonic() - since > SILENCE:
            raise TimeoutError(f"{what}: not a byte in {SILENCE:g} s")
    return done.result()


def _bytes_in(folder: Path) -> int:
    """Size of all files below a folder, also of those that a library writes under other names."""
    total = 0
    for path in folder.rglob("*"):
        # It may have been moved since.
        with suppress(OSError):
            total += path.stat().st_size
    return total


def _version(entry: Mapping[str, Any]) -> str:
    return next((str(entry[key]) for key in VERSION_KEYS if entry.get(key)), "")


def _digest(uri: str, listing: Listing) -> str:
    # With a slash at its end it is the same place.
    return digest_json([uri.rstrip("/"), {path: list(entry) for path, entry in listing.items()}])


@contextmanager
def _told(uri: str) -> Iterator[None]:
    """Turn the remote's errors into a `StoreError`, so that a job retries."""
    try:
        yield
    except UserError:
        raise
    # Each library behind fsspec raises its own errors.
    except Exception as error:
        raise StoreError(
            f"model: cannot read {uri}: {type(error).__name__}: {shortened(str(error), 200)}"
        ) from error
