"""One concept of a manifest, and the prompts or fillers it may define."""

import io
from string import Formatter
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
)

from conceptprune.digest import digest_bytes
from conceptprune.manifest.fields import (
    MAX_NAME_CHARS,
    BaseText,
    FieldPath,
    Name,
    PromptText,
    Section,
    Seed,
    Some,
    concept_key,
    refusal,
    refusal_here,
    refuse_duplicates,
)
from conceptprune.manifest.files import text_beside
from conceptprune.strict_reading import open_regular

Kind = Literal["style", "nudity", "object", "bias", "memorised", "custom"]
Direction = Literal["male_to_female", "female_to_male"]

# The fields that a concept of each kind may have besides name and kind.
FIELDS_OF_KIND: dict[Kind, frozenset[str]] = {
    "style": frozenset({"prompts", "template", "fillers"}),
    "nudity": frozenset({"prompts", "template", "fillers"}),
    "object": frozenset({"prompts", "template", "fillers"}),
    "bias": frozenset({"prompts", "template", "fillers", "direction"}),
    "memorised": frozenset({"prompts", "captions", "caption_base"}),
    "custom": frozenset({"prompts"}),
}


SAME = "another text than base: equal prompts have nothing to compare"


class PromptTexts(Section):
    """A prompt pair written out: the same image without and with the concept."""

    base: Annotated[BaseText, Field(description="the prompt without the concept, one line")]
    target: Annotated[
        PromptText,
        AfterValidator(lambda text, info: _other_than_base(text, info)),
        Field(description="the prompt with the concept, one line"),
    ]
    seed: Annotated[
        Seed | None, Field(description="the seed of this pair, a whole number from 0 to 2**63 - 1")
    ] = None


def _other_than_base(text: str, info: ValidationInfo) -> str:
    if text == info.data.get("base"):
        raise refusal_here(SAME)
    return text


def _names_gaps(text: str, gaps: frozenset[str]) -> str:
    try:
        parts = list(Formatter().parse(text))
    except ValueError as error:
        raise refusal_here(f"text with its gaps in braces ({error}); write {{{{ for a brace") from (
            error
        )
    found = [(name, spec, conversion) for _, name, spec, conversion in parts if name is not None]
    if any(name not in gaps or spec or conversion for name, spec, conversion in found):
        raise refusal_here(f"no other gap than {', '.join(f'{{{gap}}}' for gap in sorted(gaps))}")
    if "filler" not in {name for name, _, _ in found}:
        raise refusal_here("text with a gap {filler}")
    return text


class PromptTemplate(Section):
    """Two prompts with gaps, which replace the published ones of a kind."""

    base: Annotated[
        PromptText,
        AfterValidator(lambda text: _names_gaps(text, frozenset({"filler"}))),
        Field(description="a prompt with a gap {filler}, without the concept"),
    ]
    target: Annotated[
        PromptText,
        AfterValidator(lambda text: _names_gaps(text, frozenset({"filler", "concept"}))),
        Field(description="a prompt with a gap {filler}, and {concept} where its name goes"),
    ]


def _tells_apart(
    template: PromptTemplate | None, kind: str | None, at: tuple[int, ...] = ()
) -> PromptTemplate | None:
    """Refuse a template whose two prompts would be equal; for biases the fillers differ instead.

    `at` is its place in a list.
    """
    if template is None:
        return None
    target: FieldPath = (*at, "target")
    if kind == "style" and "{concept}" not in template.target:
        raise refusal((target, "text with a gap {concept}: without it no artist is named"))
    if kind in ("style", "nudity") and template.base == template.target:
        raise refusal((target, "another text than base: equal prompts have nothing to compare"))
    return template


class DefaultTemplates(Section):
    """Templates, by kind, for concepts that define none themselves."""

    style: PromptTemplate | None = None
    nudity: PromptTemplate | None = None
    object: PromptTemplate | None = None
    bias: PromptTemplate | None = None

    @field_validator("style", "nudity", "object", "bias")
    @classmethod
    def _prompts_differ(
        cls, template: PromptTemplate | None, info: ValidationInfo
    ) -> PromptTemplate | None:
        return _tells_apart(template, info.field_name)


Templates = Annotated[
    Some[PromptTemplate],
    Field(description="a list of at least one {base, target}, none of them twice"),
]


class MoreTemplates(Section):
    """Templates, by kind, beside those that concepts have."""

    style: Templates | None = None
    nudity: Templates | None = None
    object: Templates | None = None
    bias: Templates | None = None

    @field_validator("style", "nudity", "object", "bias")
    @classmethod
    def _prompts_differ(
        cls, templates: tuple[PromptTemplate, ...] | None, info: ValidationInfo
    ) -> tuple[PromptTemplate, ...] | None:
        for place, template in enumerate(templates or ()):
            _tells_apart(template, info.field_name, (place,))
        refuse_duplicates([(one.base, one.target) for one in templates or ()], "template")
        return templates


class CaptionsFile(Section):
    """A file of captions, one per line (the schema for editors; `_captions_of_file` reads it)."""

    file: PromptText
    sha256: Annotated[
        str | None,
        Field(pattern="^[0-9a-f]{64}$", description="the SHA-256 of file, 64 hexadecimal digits"),
    ] = None
    """That these are the captions that were meant, where their file may not be passed on."""


MAX_CAPTIONS_BYTES = 1024 * 1024


def _captions_of_file(value: Any, info: ValidationInfo) -> Any:
    """The lines of `{file, sha256}`, a path relative to the manifest; anything else as it is."""
    if not isinstance(value, dict):
        return value
    file, digest = value.get("file"), value.get("sha256")
    if not set(value) <= {"file", "sha256"} or not isinstance(file, str):
        raise refusal_here(CAPTIONS)
    path = text_beside(file, info)
    try:
        with open_regular(path, MAX_CAPTIONS_BYTES) as stream:
            # Some files have more bytes than they say.
            data = stream.read(MAX_CAPTIONS_BYTES)
        text = data.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise refusal_here(f"a file of captions that can be read: {path}: {error}") from error
    if digest is not None and digest != (found := digest_bytes(data)):
        raise refusal_here(
            f"sha256: the SHA-256 of {path}, which is {found}: is it the right file?"
        )
    lines = (line.strip() for line in io.StringIO(text, newline=None))
    return [line for line in lines if line and not line.startswith("#")]


CAPTIONS = "a list of at least one memorised caption, or {file: path} with one per line"


class FillerPair(Section):
    """Two words or phrases that take the same place in the base and in the target prompt."""

    base: PromptText
    target: Annotated[PromptText, AfterValidator(lambda text, info: _other_than_base(text, info))]


def _filler_tag(value: Any) -> str:
    return "<pair>" if isinstance(value, dict | FillerPair) else "<word>"


Filler = Annotated[
    Annotated[PromptText, Tag("<word>")] | Annotated[FillerPair, Tag("<pair>")],
    Discriminator(_filler_tag),
]
Words = Annotated[
    Some[PromptText],
    Field(description="a list of at least one word or phrase, none of them twice"),
]


class DefaultFillers(Section):
    """Fillers by kind: the manifest's, for concepts that define none themselves, or a rewording's,
    beside those that a concept's template has."""

    style: Words | None = None
    nudity: Words | None = None
    object: Words | None = None

    @field_validator("style", "nudity", "object")
    @classmethod
    def _no_duplicates(cls, words: tuple[str, ...] | None) -> tuple[str, ...] | None:
        refuse_duplicates(map(concept_key, words or ()), "filler")
        return words


class Concept(Section):
    """One concept: its name, its kind, and what its kind needs to make prompt pairs."""

    name: Annotated[
        Name,
        Field(description=f"one line of 1 to {MAX_NAME_CHARS} characters, no control characters"),
    ]
    kind: Kind
    prompts: Annotated[
        Some[PromptTexts] | None,
        Field(
            validate_default=True,
            description="a list of at least one {base, target, seed (optional)}",
        ),
    ] = None
    template: Annotated[
        PromptTemplate | None, Field(description="a section with base and target")
    ] = None
    fillers: Annotated[
        Some[Filler] | None,
        Field(
            description="a list of at least one word or phrase (bias: {base, target} pairs)",
        ),
    ] = None
    direction: Annotated[
        Direction | None,
        Field(validate_default=True),
    ] = None
    captions: Annotated[
        Some[PromptText] | None,
        BeforeValidator(
            _captions_of_file, json_schema_input_type=Some[PromptText] | CaptionsFile | None
        ),
        Field(validate_default=True, description=CAPTIONS),
    ] = None
    caption_base: Annotated[
        BaseText | None, Field(description="one line: the base prompt of all captions")
    ] = None

    @field_validator("prompts", "template", "fillers", "direction", "captions", "caption_base")
    @classmethod
    def _belongs_to_the_kind(cls, value: Any, info: ValidationInfo) -> Any:
        kind = info.data.get("kind")
        if value is None or kind is None or info.field_name in FIELDS_OF_KIND[kind]:
            return value
        takes = ", ".join(sorted(FIELDS_OF_KIND[kind]))
        raise refusal_here(f"nothing: a concept of kind {kind} takes only {takes} here")

    @field_validator("template")
    @classmethod
    def _template_tells_apart(
        cls, template: PromptTemplate | None, info: ValidationInfo
    ) -> PromptTemplate | None:
        return _tells_apart(template, info.data.get("kind"))

    @field_validator("template", "fillers", "direction", "captions", "caption_base")
    @classmethod
    def _replaced_by_prompts(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None and info.data.get("prompts") is not None:
            raise refusal_here("nothing: the concept's prompts are written out, which replaces it")
        return value

    @field_validator("prompts")
    @classmethod
    def _prompts_are_usable(
        cls, prompts: tuple[PromptTexts, ...] | None, info: ValidationInfo
    ) -> tuple[PromptTexts, ...] | None:
        kind = info.data.get("kind")
        if prompts is None:
            if kind == "custom":
                raise refusal_here(
                    "a list of at least one prompt pair: kind custom has no templates"
                )
            return None
        problems: list[tuple[FieldPath, str]] = [
            ((index, "base"), "text that is not empty (only kind memorised has empty bases)")
            for index, texts in enumerate(prompts)
            if kind != "memorised" and not concept_key(texts.base)
        ]
        if problems:
            raise refusal(*problems)
        refuse_duplicates(prompts, "prompt pair with the same seed")
        return prompts

    @field_validator("fillers")
    @classmethod
    def _fillers_are_usable(
        cls, fillers: tuple[str | FillerPair, ...] | None, info: ValidationInfo
    ) -> tuple[str | FillerPair, ...] | None:
        kind = info.data.get("kind")
        problems: list[tuple[FieldPath, str]] = []
        for index, filler in enumerate(fillers or ()):
            if kind == "bias" and isinstance(filler, str):
                problems.append(((index,), "a pair such as {base: woman, target: man}"))
            if kind in ("style", "nudity") and isinstance(filler, FillerPair):
                problems.append(((index,), "one word or phrase, the same in base and target"))
        if problems:
            raise refusal(*problems)
        refuse_duplicates(map(_filler_key, fillers or ()), "filler")
        return fillers

    @field_validator("direction")
    @classmethod
    def _direction_or_pairs(cls, direction: str | None, info: ValidationInfo) -> str | None:
        if info.data.get("kind") != "bias" or not {"prompts", "fillers"} <= info.data.keys():
            return direction
        own_pairs = info.data["prompts"] is not None or info.data["fillers"] is not None
        if direction is None and not own_pairs:
            names = ", ".join(get_args(Direction))
            raise refusal_here(f"{names}; or give the concept its own fillers or prompts")
        if direction is not None and own_pairs:
            raise refusal_here("nothing: the concept's own pairs already say base and target")
        return direction

    @field_validator("captions")
    @classmethod
    def _captions_are_given(
        cls, captions: tuple[str, ...] | None, info: ValidationInfo
    ) -> tuple[str, ...] | None:
        if captions is None:
            if info.data.get("kind") == "memorised" and info.data.get("prompts", ()) is None:
                raise refusal_here("a list of at least one memorised caption (or prompts instead)")
            return None
        refuse_duplicates(map(concept_key, captions), "caption")
        return captions

    @field_validator("caption_base")
    @classmethod
    def _captions_differ_from_their_base(cls, base: str | None, info: ValidationInfo) -> str | None:
        captions = info.data.get("captions") or ()
        if base is not None and concept_key(base) in map(concept_key, captions):
            raise refusal_here(
                "another text than each caption: equal prompts have nothing to compare"
            )
        return base


def _filler_key(filler: str | FillerPair) -> tuple[str, ...]:
    if isinstance(filler, str):
        return (concept_key(filler),)
    return (concept_key(filler.base), concept_key(filler.target))
