"""Fields of JSON files that another version may have written."""

from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")

NUMBERS = (int, float)


def is_later(content: Mapping[str, Any], known: str) -> bool:
    """Whether a file's format has a higher number than the one that this version knows."""
    declared = str(content.get("format", known)).rpartition("/")[2]
    return declared.isdecimal() and int(declared) > int(known.rpartition("/")[2])


def field(
    content: Mapping[str, Any],
    name: str,
    kind: type[T] | tuple[type[T], ...],
    otherwise: T | None = None,
) -> T:
    """A field of a file; `otherwise` if it is missing or has another type.

    Raises:
        ValueError: it is missing or has another type, and `otherwise` is None.
    """
    value = content.get(name)
    if isinstance(value, kind):
        return value
    if otherwise is None:
        raise ValueError(f"its field {name} is missing or wrong")
    return otherwise
