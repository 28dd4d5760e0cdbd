"""JSON files of a run, and their fields: another version may have written them, or anybody."""

import json
import math
from collections.abc import Mapping
from typing import Any, TypeGuard, TypeVar

T = TypeVar("T")

DEEPEST = 64
"""Levels of lists and objects in a file; the readers' own recursion ends well above it."""
LAST_TIME = 253_402_300_799
"""The last second of the year 9999, in seconds since 1970: the last that a date can show."""
COUNTS_BELOW = 2**63


def json_object(data: bytes) -> dict[str, Any]:
    """The object in a JSON file, with finite numbers and no more than `DEEPEST` levels.

    Raises:
        ValueError: the file is anything else.
    """
    try:
        content = json.loads(data)
    except RecursionError as error:
        raise ValueError("it is too deep") from error
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object")
    check_plain(content)
    return content


def check_plain(content: Any) -> None:
    """Check that parsed JSON has finite numbers and no more than `DEEPEST` levels.

    Raises:
        ValueError: it has not.
    """
    level: list[Any] = [content]
    for _ in range(DEEPEST):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner += value.keys()
                inner += value.values()
            elif isinstance(value, list):
                inner += value
            elif isinstance(value, str):
                # A lone surrogate could not be printed.
                value.encode()
            elif isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"it has a number {value}")
            elif isinstance(value, int) and abs(value) > 2 * COUNTS_BELOW:
                raise ValueError("it has a number of more than 64 bits")
        if not inner:
            return
        level = inner
    raise ValueError("it is too deep")


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
