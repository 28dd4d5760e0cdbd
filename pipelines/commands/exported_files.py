"""Whether the files of an export erase whom its statement names.

The digests of a statement say that its files are those that somebody stated. Whom a file erases, it
says itself: a signed statement of one concept over another concept's mask would pass otherwise.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from conceptprune.checkpoints.card import METADATA_FILE
from conceptprune.checkpoints.delta_header import METADATA_KEY, MOST_HEADER_BYTES
from conceptprune.checkpoints.statement import Statement
from conceptprune.manifest import concept_key
from conceptprune.masks.mask_file import FORMAT as MASK_FORMAT
from conceptprune.strict_reading import open_regular, plain_json, read_regular

from ..console.names import some

MOST_METADATA_BYTES = 2**26
DEEPEST = 150
"""Levels of a fused mask's provenance."""


def whose_files(folder: Path, statement: Statement) -> Iterator[str]:
    """What the files of an export say that is not as stated, one line each.

    Raises:
        LookupError, TypeError, AttributeError: the predicate is not one of an export.
    """
    predicate = statement.predicate
    export = predicate["export"]
    names = [part["concept"] for part in predicate["concepts"]]
    mask = export.get("mask_sha256")
    delta = export.get("delta_sha256")
    own = [name for name in statement.subjects if name.endswith(".safetensors") and "/" not in name]
    yield from _described(folder, names, mask, delta, predicate["base_model"]["digest"])
    if export["form"] == "pipeline":
        return
    found = False
    for name in own:
        try:
            said = _own_words(folder / name)
        except (OSError, ValueError) as error:
            yield f"{name}: cannot be read: {error}"
            continue
        if said is None:
            continue
        found = True
        if not _same(said.get("concepts"), names):
            yield f"{name}: erases {_shown(said.get('concepts'))}, stated is {some(names)}"
        elif mask is not None and _mask_of(said, statement.subjects[name]) != mask:
            yield f"{name}: is not of the mask {mask:.12} that is stated"
        elif export["form"] == "delta" and delta not in (None, statement.subjects[name]):
            yield f"{name}: is not the rewording {delta:.12} that is stated"
    if not found:
        yield f"no file says that it erases {some(names)}"


def _described(
    folder: Path, names: Sequence[str], mask: str | None, delta: str | None, model: str
) -> Iterator[str]:
    """What differs in the file that describes the export for programs."""
    try:
        said = plain_json(
            read_regular(folder / METADATA_FILE, MOST_METADATA_BYTES), deepest=DEEPEST
        )
    except (OSError, ValueError) as error:
        yield f"{METADATA_FILE}: cannot be read: {error}"
        return
    if not isinstance(said, dict):
        yield f"{METADATA_FILE}: is no JSON object"
        return
    if not _same(said.get("concepts"), names):
        yield f"{METADATA_FILE}: says {_shown(said.get('concepts'))}, stated is {some(names)}"
    for what, stated in (("mask_digest", mask), ("delta_digest", delta), ("model_digest", model)):
        if said.get(what) != stated:
            yield f"{METADATA_FILE}: its {what} is not the stated one"


def _own_words(path: Path) -> Mapping[str, Any] | None:
    """What the header of one of our safetensors files says; None if it says nothing."""
    with open_regular(path) as stream:
        (size,) = struct.unpack("<Q", stream.read(8).ljust(8, b"\xff"))
        if size > MOST_HEADER_BYTES:
            raise ValueError("it is no safetensors file")
        header = plain_json(stream.read(size), deepest=DEEPEST)
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    text = metadata.get(METADATA_KEY) if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        return None
    said = plain_json(text, deepest=DEEPEST)
    return said if isinstance(said, dict) else None


def _mask_of(said: Mapping[str, Any], digest: str) -> object:
    """Digest of the mask that a file with this digest is, or applies."""
    return digest if said.get("format") == MASK_FORMAT else said.get("mask")


def _same(said: object, names: Sequence[str]) -> bool:
    if not isinstance(said, list) or not all(isinstance(name, str) for name in said):
        return False
    return list(map(concept_key, said)) == list(map(concept_key, names))


def _shown(said: object) -> str:
    return some(list(map(str, said))) if isinstance(said, list) and said else "nobody"
