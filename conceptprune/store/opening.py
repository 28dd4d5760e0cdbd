"""Open the file system behind a store's URI, in the process that uses it."""

from dataclasses import replace
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from conceptprune.errors import UserError
from conceptprune.store.access import Access
from conceptprune.store.backend import Backend
from conceptprune.store.files import LocalFiles
from conceptprune.store.objects import FsspecObjects

S3_SCHEMES = ("s3://", "s3a://")


def open_backend(uri: str, deadline: float) -> Backend:
    """Open the backend for a URI, without any network access.

    Raises:
        UserError: the URI's scheme is unknown, or lacks its library.
    """
    options: dict[str, object] = {"use_listings_cache": False, "skip_instance_cache": True}
    on_s3 = uri.startswith(S3_SCHEMES)
    if on_s3:
        # Imported here because it takes half a second, which a local store does not need.
        from conceptprune.store.s3 import S3Objects, file_system_options, s3_access

        options |= file_system_options()
    try:
        fs, root = fsspec.core.url_to_fs(uri, **options)
    except (ValueError, ImportError, TypeError) as error:
        # TypeError: a file system that needs more than a URI, such as reference://.
        raise UserError(f"--store {uri}: {error}") from error
    root = root.rstrip("/")
    if on_s3:
        return S3Objects(fs, root, s3_access(uri, deadline))
    access = Access(uri=uri, deadline=deadline)
    if isinstance(fs, LocalFileSystem):
        return LocalFiles(Path(root), access)
    # Each library behind fsspec raises its own errors, many of which are not OSErrors.
    return FsspecObjects(fs, root, replace(access, failures=(Exception,)))
