"""One concept of a manifest, and the prompts or fillers it may bring."""

from typing import Annotated, Any, Literal, get_args

from pydantic import (
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
)

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

Kind = Literal["style", "nudity", "object", "bias", "memorised", "custom"]
Direction = Literal["male_to_female", "female_to_male"]

# What a concept of each kind may say beyond its name and kind.
FIELDS_OF_KIND: dict[Kind, frozenset[str]] = {
    "style": frozenset({"prompts", "fillers"}),
    "nudity": frozenset({"prompts", "fillers"}),
    "object": frozenset({"prompts", "fillers"}),
    "bias": frozenset({"prompts", "fillers", "direction"}),
    "memorised": frozenset({"prompts", "captions", "caption_base"}),
    "custom": frozenset({"prompts"}),
}


class PromptTexts(Section):
    """A prompt pair written out: the same picture without and with the concept."""

    base: Annotated[BaseText, Field(description="the prompt without the concept, one line")]
    target: Annotated[PromptText, Field(description="the prompt with the concept, one line")]
    seed: Annotated[
        Seed | None, Field(description="the seed of this pair, a whole number from 0 to 2**63 - 1")
    ] = None


class FillerPair(Section):
    """Two words or phrases that take the same place in the base and in the target prompt."""

    base: PromptText
    target: PromptText


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
    """Fillers for all concepts of a kind that bring none of their own."""

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
        Field(
            validate_default=True,
            description="a list of at least one memorised caption",
        ),
    ] = None
    caption_base: Annotated[
        BaseText | None, Field(description="one line: the base prompt of all captions")
    ] = None

    @field_validator("prompts", "fillers", "direction", "captions", "caption_base")
    @classmethod
    def _belongs_to_the_kind(cls, value: Any, info: ValidationInfo) -> Any:
        kind = info.data.get("kind")
        if value is None or kind is None or info.field_name in FIELDS_OF_KIND[kind]:
            return value
        takes = ", ".join(sorted(FIELDS_OF_KIND[kind]))
        raise refusal_here(f"nothing: a concept of kind {kind} takes only {takes} here")

    @field_validator("fillers", "direction", "captions", "caption_base")
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


def _filler_key(filler: str | FillerPair) -> tuple[str, ...]:
    if isinstance(filler, str):
        return (concept_key(filler),)
    return (concept_key(filler.base), concept_key(filler.target))
