"""What a delta's file says of itself, read strictly from its beginning; without torch."""

import struct
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.types import JsonValue

from conceptprune.errors import UserError
from conceptprune.redaction import shortened
from conceptprune.strict_reading import plain_json

METADATA_KEY = "conceptprune"
MOST_HEADER_BYTES = 100_000_000
"""Limit for its JSON, as in safetensors."""
DEEPEST = 150
"""Levels of its JSON, as in masks, whose provenance a delta repeats."""

NOT_ONE = "not a safetensors file of edited tensors"

Name = Annotated[str, Field(min_length=1)]


class DeltaHeader(BaseModel):
    """The metadata of our own deltas; other tools' have none."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: Literal["conceptprune.delta/1"]
    component: Name
    concepts: tuple[Name, ...]
    mask: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None
    provenance: dict[str, JsonValue]


def begun_header(beginning: bytes) -> DeltaHeader | None:
    """The metadata alone, from a file's first bytes.

    Raises:
        UserError: it is invalid, or does not end within these bytes.
    """
    return _own_header(_metadata(beginning))


def _metadata(data: bytes) -> Mapping[str, Any]:
    if len(data) < struct.calcsize("<Q"):
        raise UserError(f"{NOT_ONE}: it has {len(data)} bytes")
    (size,) = struct.unpack_from("<Q", data)
    if size > min(MOST_HEADER_BYTES, len(data) - 8):
        raise UserError(f"{NOT_ONE}, or cut short: no header of {size:,} bytes")
    content = _json(data[8 : 8 + size], NOT_ONE)
    metadata = content.get("__metadata__", {}) if isinstance(content, dict) else None
    if not isinstance(metadata, dict):
        raise UserError(f"{NOT_ONE}: no safetensors header")
    return metadata


def _own_header(metadata: Mapping[str, Any]) -> DeltaHeader | None:
    text = metadata.get(METADATA_KEY)
    if text is None:
        return None
    damaged = "a damaged delta: its metadata"
    if not isinstance(text, str):
        raise UserError(f"{damaged} is no text")
    _json(text, damaged)
    try:
        return DeltaHeader.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{damaged}: {where:.200}: {first['msg']}") from error


def _json(text: bytes | str, what: str) -> Any:
    try:
        return plain_json(text, deepest=DEEPEST)
    except ValueError as error:
        raise UserError(f"{what} is not read: {one_line(error)}") from error


def one_line(error: Exception) -> str:
    """The beginning of an error's first line."""
    return shortened((str(error).splitlines() or [type(error).__name__])[0], 200)
