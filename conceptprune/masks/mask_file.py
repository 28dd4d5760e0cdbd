"""The file format of masks, and its only, strict reader.

A mask file is a safetensors file: one uint8 tensor of coded entries (see `codec`) per layer, and
one metadata key, "conceptprune", with JSON: format, concepts, component, provenance, and for each
layer its shape and the digests of the weights it was made for.

The JSON also has the file's own digest, as `sha256`: that of the whole file with 64 zeros in the
digest's place. Older files have no digest, and are still read.
"""

import struct
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.types import JsonValue
from safetensors import SafetensorError

from conceptprune.digest import canonical_json, digest_bytes
from conceptprune.errors import UserError
from conceptprune.masks.codec import decode_entries, encode_entries
from conceptprune.masks.provenance import checked as checked_provenance
from conceptprune.redaction import shortened
from conceptprune.strict_reading import plain_json

FORMAT = "conceptprune.mask/1"
METADATA_KEY = "conceptprune"
MOST_BYTES = 1 << 33
"""Limit for a file: half of FLUX.1's weights would fit."""
MOST_HEADER_BYTES = 100_000_000
"""Limit for its JSON, as in safetensors: enough for thousands of concepts in one fused mask."""
DEEPEST = 150
"""Levels of its JSON."""
MOST_ROWS = 2**31
"""Limit for a side of a weight: so all of its entries' places have 64 bits."""
DIGEST_KEY = "sha256"

_PLACEHOLDER = "0" * 64
_DAMAGED = "; it is damaged or was edited: copy or export it again"

Entries = NDArray[np.int64]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(min_length=1)]
Side = Annotated[int, Field(gt=0, lt=MOST_ROWS)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class LayerHeader(_Strict):
    """What a mask file says about one layer, besides its entries."""

    shape: tuple[Side, Side]
    weight_digest: Digest
    rounded_digests: tuple[Digest, ...] = ()
    first_column: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _site_has_columns(self) -> "LayerHeader":
        if self.first_column >= self.shape[1]:
            raise ValueError(f"first_column must be below the {self.shape[1]} columns")
        return self


class MaskHeader(_Strict):
    """The JSON of a mask file."""

    format: Literal["conceptprune.mask/1"]
    concepts: Annotated[tuple[Name, ...], Field(min_length=1)]
    component: Name
    provenance: dict[str, JsonValue]
    layers: Annotated[dict[Name, LayerHeader], Field(min_length=1)]
    sha256: Digest | None = None

    @field_validator("provenance")
    @classmethod
    def _as_it_is_read(cls, provenance: dict[str, JsonValue]) -> dict[str, JsonValue]:
        return checked_provenance(provenance)

    @field_validator("concepts")
    @classmethod
    def _each_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise ValueError("a concept is named twice")
        return names


def write_mask(
    header: Mapping[str, Any], entries: Mapping[str, Entries], *, checked: bool
) -> bytes:
    """The bytes of a mask file; with `checked`, it contains its own digest.

    Raises:
        ValueError: entries are not strictly increasing from 0 on.
    """
    tensors = {name: encode_entries(flat) for name, flat in entries.items()}
    own = {DIGEST_KEY: _PLACEHOLDER} if checked else {}
    # Only one metadata key: safetensors writes several in no fixed order.
    data = safetensors.numpy.save(tensors, {METADATA_KEY: canonical_json({**header, **own})})
    return data.replace(_place(_PLACEHOLDER), _place(digest_bytes(data)), 1) if checked else data


def read_mask_file(data: bytes) -> tuple[MaskHeader, dict[str, Entries]]:
    """The header and the entries by layer, in the order of the layers' names.

    Raises:
        UserError: the file is invalid; says in one line what is wrong.
    """
    tensors_header = _tensors_header(data)
    header = _mask_header(tensors_header)
    if header.sha256 is not None:
        _check_digest(data, header.sha256)
    coded = _coded(data, tensors_header, header)
    return header, {
        name: _entries(name, coded[name], header.layers[name]) for name in sorted(coded)
    }


def named_concepts(beginning: bytes, size: int) -> tuple[str, ...] | None:
    """The concepts that a mask file of `size` bytes names, from its first bytes alone.

    Nothing is checked. None if it cannot be told: its header is longer than `beginning`, or of
    another format.

    Raises:
        UserError: no mask file begins like this.
    """
    if 8 <= len(beginning) < size:
        (header,) = struct.unpack_from("<Q", beginning)
        if header > len(beginning) - 8:
            return None
    metadata = _tensors_header(beginning).get("__metadata__")
    text = metadata.get(METADATA_KEY) if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise UserError(f"not a conceptprune mask: its metadata has no key {METADATA_KEY}")
    content = _json(text, "not a conceptprune mask: its metadata")
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        return None
    names = content.get("concepts")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError("damaged mask: it names no concepts")
    return tuple(names)


def _tensors_header(data: bytes) -> dict[str, Any]:
    if len(data) > MOST_BYTES:
        raise UserError(f"not a conceptprune mask: {len(data):,} bytes, at most {MOST_BYTES:,}")
    if len(data) < struct.calcsize("<Q"):
        raise UserError(f"not a conceptprune mask: it has {len(data)} bytes")
    (size,) = struct.unpack_from("<Q", data)
    if size > min(MOST_HEADER_BYTES, len(data) - 8):
        raise UserError(f"not a conceptprune mask, or cut short: no header of {size:,} bytes")
    header = _json(data[8 : 8 + size], "not a conceptprune mask: its safetensors header")
    if not isinstance(header, dict):
        raise UserError("not a conceptprune mask: no safetensors header")
    return header


def _mask_header(tensors_header: Mapping[str, Any]) -> MaskHeader:
    metadata = tensors_header.get("__metadata__")
    text = metadata.get(METADATA_KEY) if isinstance(metadata, dict) else None
    if not isinstance(text, str) or metadata != {METADATA_KEY: text}:
        raise UserError(f"not a conceptprune mask: its metadata is not the one key {METADATA_KEY}")
    content = _json(text, "not a conceptprune mask: its metadata")
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise UserError(f"a mask of format {found!r:.60}; this version reads {FORMAT}")
    try:
        return MaskHeader.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"damaged mask: {where:.200}: {first['msg']}{_DAMAGED}") from error


def _check_digest(data: bytes, digest: str) -> None:
    (size,) = struct.unpack_from("<Q", data)
    place = _place(digest)
    head = data[: 8 + size]
    same = head.count(place) == 1
    if same:
        blank = head.replace(place, _place(_PLACEHOLDER))
        same = digest_bytes(blank + data[8 + size :]) == digest
    if not same:
        raise UserError(f"damaged mask: its content does not match its own digest{_DAMAGED}")


def _coded(
    data: bytes, tensors_header: Mapping[str, Any], header: MaskHeader
) -> dict[str, NDArray[np.uint8]]:
    names = tensors_header.keys() - {"__metadata__"}
    for name in sorted(names ^ header.layers.keys()):
        lacks = "no entries" if name in header.layers else "entries, and no shape"
        raise UserError(f"damaged mask: there are {lacks} of {name!r:.200}{_DAMAGED}")
    for name in sorted(names):
        entry = tensors_header[name]
        dtype = entry.get("dtype") if isinstance(entry, dict) else None
        shape = entry.get("shape") if isinstance(entry, dict) else None
        if dtype != "U8" or not isinstance(shape, list) or len(shape) != 1:
            raise UserError(
                f"damaged mask: {name!r:.200} is {dtype!r:.20} {shape!r:.60}, and must be a row of "
                f"U8{_DAMAGED}"
            )
    try:
        found: dict[str, NDArray[np.uint8]] = safetensors.numpy.load(data)
    except (SafetensorError, ValueError, TypeError, KeyError, OverflowError) as error:
        raise UserError(f"damaged mask: {_one_line(error)}{_DAMAGED}") from error
    return found


def _entries(name: str, coded: NDArray[np.uint8], layer: LayerHeader) -> Entries:
    rows, columns = layer.shape
    # Except for the first, each byte advances by at least one, so there cannot be more.
    if len(coded) > rows * columns:
        raise UserError(
            f"damaged mask: {name} has more entries than its {rows} x {columns}{_DAMAGED}"
        )
    try:
        entries = decode_entries(coded)
    except ValueError as error:
        raise UserError(f"damaged mask: {name}: {error}{_DAMAGED}") from error
    if len(entries) and entries[-1] >= rows * columns:
        raise UserError(
            f"damaged mask: an entry of {name} lies outside {rows} x {columns}{_DAMAGED}"
        )
    if layer.first_column and (entries % columns < layer.first_column).any():
        raise UserError(
            f"damaged mask: an entry of {name} lies before column {layer.first_column}{_DAMAGED}"
        )
    return entries


def _json(text: bytes | str, what: str) -> Any:
    """Parse JSON strictly: each mask of a fused one that is fused again is three levels deeper."""
    try:
        return plain_json(text, deepest=DEEPEST)
    except ValueError as error:
        raise UserError(f"{what} is not read: {_one_line(error)}{_DAMAGED}") from error


def _place(digest: str) -> bytes:
    """The position of the digest in a file: JSON inside a JSON string."""
    return f'\\"{DIGEST_KEY}\\":\\"{digest}\\"'.encode("ascii")


def _one_line(error: Exception) -> str:
    return shortened((str(error).splitlines() or [type(error).__name__])[0], 200)
