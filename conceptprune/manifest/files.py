"""Text files that a document names: regular files in allowed folders only.

A manifest may come from somebody else, and the text files that it names become prompts and names
of concepts, which are written to the store. So it may only name files below its own folder, or
below a folder that the command line allows.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from pydantic import ValidationInfo

from conceptprune.manifest.fields import beside, refusal_here

_allowed: ContextVar[tuple[Path, ...]] = ContextVar("allowed", default=())


def allow_files_from(folders: Iterable[Path]) -> None:
    """From now on, also allow documents to name text files below these folders."""
    _allowed.set(tuple(folders))


@contextmanager
def also_allowed(folder: Path) -> Iterator[None]:
    """For as long as this lasts, also allow documents to name text files below a folder."""
    before = _allowed.set((*_allowed.get(), folder))
    try:
        yield
    finally:
        _allowed.reset(before)


def text_beside(written: str, info: ValidationInfo) -> Path:
    """The path of a text file that a document names, relative to the document's folder.

    Raises:
        PydanticCustomError: with links resolved, it is neither below that folder nor below an
        allowed one.
    """
    found, elsewhere = text_below(written, info)
    if elsewhere:
        raise refusal_here(elsewhere)
    return found


def text_below(written: str, info: ValidationInfo) -> tuple[Path, str]:
    """As `text_beside`; but where the file lies elsewhere, what is allowed is returned as text."""
    found = Path(beside(written, info))
    if info.context:
        folder = Path(info.context["folder"])
        try:
            real = found.resolve()
        except (OSError, RuntimeError, ValueError) as error:
            # A loop of links, or a name that no file can have.
            return found, f"the path of a file: {written}: {error}"
        if not any(real.is_relative_to(one.resolve()) for one in (folder, *_allowed.get())):
            return found, (
                f"a file below {folder}, or below a folder that --files-from names: {written} "
                "is elsewhere"
            )
    return found, ""
