"""What a mask may say of how it was made: whatever reads it finds these types, or nothing."""

import unicodedata
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from conceptprune.errors import UserError

MOST_CHARS = 2000


def _one_line(text: str) -> str:
    if any(unicodedata.category(char) in ("Cc", "Zl", "Zp") for char in text):
        raise ValueError("must be one line without control characters")
    return text


Line = Annotated[str, Field(max_length=MOST_CHARS), AfterValidator(_one_line)]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._+-]{0,99}$")]
"""Printed on model cards as it is."""
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Number = Annotated[float, Field(allow_inf_nan=False)]


class _Open(BaseModel):
    """Fields of other versions are let through."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)


class _Sides(_Open):
    target: Digest
    base: Digest


class _Collection(_Open):
    guidance: Number
    dtype: Word | None = None


class _Fusion(_Open):
    how: Word
    alpha: Number | None = None
    fraction: Number | None = None


class Stated(_Open):
    """The fields that this version knows, as far as a mask has them."""

    model: Line | None = None
    revision: Line | None = None
    model_digest: Line | None = None
    dtype: Literal["float64", "float32", "float16", "bfloat16"] | None = None
    kind: Word | None = None
    site: Line | list[Line] | None = None
    seed: int | None = None
    base: Word | None = None
    selector: Line | None = None
    selection: dict[Word, Number | None] | None = None
    timesteps: list[Number] | None = None
    collection: _Collection | None = None
    prompts_digest: _Sides | None = None
    versions: dict[Word, Word] | None = None
    fusion: _Fusion | Word | None = None


NEEDED = (
    *("model", "versions", "site", "kind", "timesteps", "selector", "selection"),
    *("collection", "seed", "prompts_digest"),
)
"""What masks of jobs say, and model cards repeat."""


def checked(provenance: dict[str, Any]) -> dict[str, Any]:
    """The same provenance, if its fields have the types that are read.

    Raises:
        ValueError: they have not; one line.
    """
    try:
        # Its copy is not used: there, whole numbers are fractions, and the bytes would differ.
        Stated.model_validate(provenance)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{where:.200}: {first['msg']}") from error
    return provenance


def check_whole(provenance: Mapping[str, Any], whose: str) -> None:
    """Check that a mask says all that a model card repeats.

    Raises:
        UserError: it does not; names what is missing.
    """
    for name in NEEDED:
        if not provenance.get(name) and provenance.get(name) != 0:
            raise UserError(
                f"the mask of {whose:.200} does not say how it was made: no {name}; "
                "only masks of jobs are exported"
            )
