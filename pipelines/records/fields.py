"""JSON files of a run, and their fields: another version may have written them, or anybody."""

from collections.abc import Mapping
from typing import Any, TypeGuard, TypeVar

from conceptprune.strict_reading import plain_json

T = TypeVar("T")

LAST_TIME = 253_402_300_799
"""The last second of the year 9999, in seconds since 1970: the last that a date can show."""
COUNTS_BELOW = 2**63


def json_object(data: bytes) -> dict[str, Any]:
    """The object in a JSON file; see `plain_json`.

    Raises:
        ValueError: the file is anything else.
    """
    content = plain_json(data)
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object")
    return content


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


def time_field(content: Mapping[str, Any], name: str, otherwise: float | None = None) -> float:
    """A time in seconds since 1970, up to the year 9999; else as `field`."""
    value = content.get(name)
    if _is_number(value) and 0 <= value <= LAST_TIME:
        return float(value)
    return field({}, name, float, otherwise)


def count_field(content: Mapping[str, Any], name: str, otherwise: int | None = None) -> int:
    """A whole number from 0, of less than 64 bits; else as `field`."""
    value = content.get(name)
    if _is_number(value) and isinstance(value, int) and 0 <= value < COUNTS_BELOW:
        return value
    return field({}, name, int, otherwise)


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
