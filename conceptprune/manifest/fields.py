"""The types of a manifest's values, and how bad values are refused.

The description of a field says which values are allowed; `loading` quotes it in its messages.
"""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    Strict,
    ValidationInfo,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

T = TypeVar("T")
FieldPath = tuple[str | int, ...]


def is_union_tag(part: str | int) -> bool:
    """Whether a part of an error's path is a union member's name, which pydantic inserts."""
    return isinstance(part, str) and part.startswith("<") and part.endswith(">")


MAX_NAME_CHARS = 200
MAX_PROMPT_CHARS = 2000

# Characters that reorder the text around them, so that a name would look different on a screen
# (Unicode Standard Annex 9).
_BIDI_CONTROLS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_LINE_AND_CONTROL = frozenset({"Cc", "Cs", "Zl", "Zp"})


def concept_key(name: str) -> str:
    """The form in which names are compared: NFKC, case folded, spacing collapsed.

    Invisible format characters are dropped, because they would hide a duplicate.
    """
    visible = "".join(char for char in name if unicodedata.category(char) != "Cf")
    folded = unicodedata.normalize("NFKC", visible).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def refusal(*problems: tuple[FieldPath, str]) -> PydanticCustomError:
    """One validation error for problems given as (path below the field, what is allowed)."""
    text = "; ".join(allowed for _, allowed in problems)
    return PydanticCustomError("manifest", "{text}", {"text": text, "problems": problems})


def refusal_here(allowed: str) -> PydanticCustomError:
    """One validation error for the field itself."""
    return refusal(((), allowed))


def _one_line(text: str) -> str:
    for char in text:
        if unicodedata.category(char) in _LINE_AND_CONTROL or char in _BIDI_CONTROLS:
            raise refusal_here(
                f"one line of text without control characters (this has U+{ord(char):04X})"
            )
    return text


def _not_blank(text: str) -> str:
    if not concept_key(text):
        raise refusal_here("text that is not empty")
    return text


def _trimmed(text: str) -> str:
    if text != text.strip():
        raise refusal_here("text without spaces at its ends")
    return text


def refuse_duplicates(keys: Iterable[object], what: str) -> None:
    """Raise an error that points at each key that repeats an earlier one."""
    first_seen: dict[object, int] = {}
    problems: list[tuple[FieldPath, str]] = []
    for index, key in enumerate(keys):
        first = first_seen.setdefault(key, index)
        if first != index:
            problems.append(((index,), f"no {what} twice (this one repeats entry {first})"))
    if problems:
        raise refusal(*problems)


def _not_empty(entries: tuple[T, ...]) -> tuple[T, ...]:
    # pydantic's min_length would also report a list in which every entry is invalid.
    if not entries:
        raise refusal_here("a list of at least one entry")
    return entries


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedPath:
    """A file or folder that a document names."""

    field: str
    written: str
    found: str
    """Its location on this machine."""


def beside(written: str, info: ValidationInfo) -> str:
    """The path of a file or folder that a document names, relative to the document's folder.

    `loading` has the folder in its context, and keeps a list of all named paths there.
    """
    if not info.context:
        return written
    found = str(Path(info.context["folder"], written))
    info.context["named"].append(
        NamedPath(field=info.field_name or "", written=written, found=found)
    )
    return found


Some = Annotated[tuple[T, ...], AfterValidator(_not_empty)]
Int = Annotated[int, Strict()]
Float = Annotated[float, Strict(), Field(allow_inf_nan=False)]
Bool = Annotated[bool, Strict()]
Line = Annotated[str, Strict(), AfterValidator(_one_line)]


# The empty prompt is the usual base of a memorised caption.
BaseText = Annotated[Line, AfterValidator(_trimmed), Field(max_length=MAX_PROMPT_CHARS)]
PromptText = Annotated[BaseText, AfterValidator(_not_blank)]
Name = Annotated[PromptText, Field(max_length=MAX_NAME_CHARS)]
Positive = Annotated[Int, Field(ge=1)]
Steps = Annotated[Int, Field(ge=1, le=1000)]
"""Denoiser calls per image: schedulers have 1000 timesteps."""
Count = Annotated[Int, Field(ge=1, le=100_000)]
"""A number of things that one machine or cluster has or runs at once."""
Seed = Annotated[Int, Field(ge=0, lt=2**63)]
Guidance = Annotated[Float, Field(ge=1)]


class Section(BaseModel):
    """Base of every part of a manifest: immutable, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True)


def formerly(name: str, former: str) -> Any:
    """Annotate the field `name`, called `former` in earlier versions.

    Files may use either name. Dumps use the former one, so that records in stores and the
    identities of runs do not change.
    """
    return Field(validation_alias=AliasChoices(name, former), serialization_alias=former)


def field_named(section: type[BaseModel], key: object) -> FieldInfo | None:
    """The field that `key` stands for in a section, by its current or former name."""
    for name, field in section.model_fields.items():
        if key in (name, field.serialization_alias):
            return field
    return None
