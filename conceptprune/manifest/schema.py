"""The schema of a manifest: what a batch of erasures consists of, and every rule it must keep.

The description of a field says which values are allowed; `loading` quotes it in its messages.
A rule that involves a second field is checked on the later one of the two, so that the message
points at a line. Defaults are the published settings of ConceptPrune (arXiv 2405.19237).
"""

import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Strict,
    Tag,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

T = TypeVar("T")
FieldPath = tuple[str | int, ...]

Kind = Literal["style", "nudity", "object", "bias", "memorised", "custom"]
Scheduler = Literal[
    "DDIMScheduler",
    "DPMSolverMultistepScheduler",
    "EulerDiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
]
GuidanceHalves = Literal["both", "conditional"]
Direction = Literal["male_to_female", "female_to_male"]

# Names of the union members that pydantic puts into the path of an error.
UNION_TAGS = frozenset({"<builtin>", "<folder>", "<hub>", "<word>", "<pair>"})

MAX_NAME_CHARS = 200
MAX_PROMPT_CHARS = 2000

# What a concept of each kind may say beyond its name and kind.
FIELDS_OF_KIND: dict[Kind, frozenset[str]] = {
    "style": frozenset({"prompts", "fillers"}),
    "nudity": frozenset({"prompts", "fillers"}),
    "object": frozenset({"prompts", "fillers"}),
    "bias": frozenset({"prompts", "fillers", "direction"}),
    "memorised": frozenset({"prompts", "captions", "caption_base"}),
    "custom": frozenset({"prompts"}),
}

# Characters that reorder the text around them on a screen, so that a name would not be what is
# read (Unicode Standard Annex 9).
_BIDI_CONTROLS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_LINE_AND_CONTROL = frozenset({"Cc", "Cs", "Zl", "Zp"})


def concept_key(name: str) -> str:
    """Return the form in which two names are compared: NFKC, case folded, spacing collapsed.

    Invisible format characters are dropped: they would hide a duplicate from its reader.
    """
    visible = "".join(char for char in name if unicodedata.category(char) != "Cf")
    folded = unicodedata.normalize("NFKC", visible).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def _refusal(*problems: tuple[FieldPath, str]) -> PydanticCustomError:
    """Return one validation error for problems given as (path below the field, what is allowed)."""
    text = "; ".join(allowed for _, allowed in problems)
    return PydanticCustomError("manifest", "{text}", {"text": text, "problems": problems})


def _refusal_here(allowed: str) -> PydanticCustomError:
    return _refusal(((), allowed))


def _one_line(text: str) -> str:
    for char in text:
        if unicodedata.category(char) in _LINE_AND_CONTROL or char in _BIDI_CONTROLS:
            raise _refusal_here(
                f"one line of text without control characters (this has U+{ord(char):04X})"
            )
    return text


def _not_blank(text: str) -> str:
    if not concept_key(text):
        raise _refusal_here("text that is not empty")
    return text


def _trimmed(text: str) -> str:
    if text != text.strip():
        raise _refusal_here("text without spaces at its ends")
    return text


def _refuse_duplicates(keys: Iterable[object], what: str) -> None:
    """Raise an error that points at each key which an earlier entry has already."""
    first_seen: dict[object, int] = {}
    problems: list[tuple[FieldPath, str]] = []
    for index, key in enumerate(keys):
        first = first_seen.setdefault(key, index)
        if first != index:
            problems.append(((index,), f"no {what} twice (this one repeats entry {first})"))
    if problems:
        raise _refusal(*problems)


def _not_empty(entries: tuple[T, ...]) -> tuple[T, ...]:
    # Not pydantic's min_length, which also complains about a list whose entries are all wrong.
    if not entries:
        raise _refusal_here("a list of at least one entry")
    return entries


Some = Annotated[tuple[T, ...], AfterValidator(_not_empty)]
_Int = Annotated[int, Strict()]
_Float = Annotated[float, Strict(), Field(allow_inf_nan=False)]
_Bool = Annotated[bool, Strict()]
_Line = Annotated[str, Strict(), AfterValidator(_one_line)]


# The empty prompt is the usual base of a memorised caption.
BaseText = Annotated[_Line, AfterValidator(_trimmed), Field(max_length=MAX_PROMPT_CHARS)]
PromptText = Annotated[BaseText, AfterValidator(_not_blank)]
Name = Annotated[PromptText, Field(max_length=MAX_NAME_CHARS)]
Positive = Annotated[_Int, Field(ge=1)]
Seed = Annotated[_Int, Field(ge=0, lt=2**63)]
Guidance = Annotated[_Float, Field(ge=1)]


class Section(BaseModel):
    """Base of every part of a manifest: immutable, and without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class BuiltinModel(Section):
    """A model that ships with the package."""

    builtin: Literal["studio"]


class FolderModel(Section):
    """A local `from_pretrained` folder."""

    folder: Annotated[
        PromptText,
        Field(description="the path of a from_pretrained folder, relative to the manifest"),
    ]

    @field_validator("folder")
    @classmethod
    def _relative_to_the_manifest(cls, folder: str, info: ValidationInfo) -> str:
        return str(Path(info.context["folder"], folder)) if info.context else folder


class HubModel(Section):
    """A model of the Hugging Face hub, pinned so that a rerun means the same weights."""

    hub: Annotated[
        str,
        Strict(),
        Field(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$",
            description="a hub id of the form organisation/name",
        ),
    ]
    revision: Annotated[
        str,
        Strict(),
        Field(
            pattern=r"^[0-9a-f]{40}$",
            description="a full commit id, 40 characters of 0-9 and a-f (a branch or tag can move)",
        ),
    ]


_MODEL_KEYS = ("builtin", "folder", "hub")
_ONE_MODEL = "exactly one of builtin, folder, hub (with revision)"


def _model_tag(value: Any) -> str | None:
    if isinstance(value, dict):
        given = [key for key in _MODEL_KEYS if key in value]
    else:
        given = [key for key in _MODEL_KEYS if hasattr(value, key)]
    return f"<{given[0]}>" if len(given) == 1 else None


ModelRef = Annotated[
    Annotated[BuiltinModel, Tag("<builtin>")]
    | Annotated[FolderModel, Tag("<folder>")]
    | Annotated[HubModel, Tag("<hub>")],
    Discriminator(
        _model_tag,
        custom_error_type="manifest",
        custom_error_message=_ONE_MODEL,
        custom_error_context={"problems": (((), _ONE_MODEL),)},
    ),
]


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
        _refuse_duplicates(map(concept_key, words or ()), "filler")
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
        raise _refusal_here(f"nothing: a concept of kind {kind} takes only {takes} here")

    @field_validator("fillers", "direction", "captions", "caption_base")
    @classmethod
    def _replaced_by_prompts(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None and info.data.get("prompts") is not None:
            raise _refusal_here("nothing: the concept's prompts are written out, which replaces it")
        return value

    @field_validator("prompts")
    @classmethod
    def _prompts_are_usable(
        cls, prompts: tuple[PromptTexts, ...] | None, info: ValidationInfo
    ) -> tuple[PromptTexts, ...] | None:
        kind = info.data.get("kind")
        if prompts is None:
            if kind == "custom":
                raise _refusal_here(
                    "a list of at least one prompt pair: kind custom has no templates"
                )
            return None
        problems: list[tuple[FieldPath, str]] = [
            ((index, "base"), "text that is not empty (only kind memorised has empty bases)")
            for index, texts in enumerate(prompts)
            if kind != "memorised" and not concept_key(texts.base)
        ]
        if problems:
            raise _refusal(*problems)
        _refuse_duplicates(prompts, "prompt pair with the same seed")
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
            raise _refusal(*problems)
        _refuse_duplicates(map(_filler_key, fillers or ()), "filler")
        return fillers

    @field_validator("direction")
    @classmethod
    def _direction_or_pairs(cls, direction: str | None, info: ValidationInfo) -> str | None:
        if info.data.get("kind") != "bias" or not {"prompts", "fillers"} <= info.data.keys():
            return direction
        own_pairs = info.data["prompts"] is not None or info.data["fillers"] is not None
        if direction is None and not own_pairs:
            names = ", ".join(get_args(Direction))
            raise _refusal_here(f"{names}; or give the concept its own fillers or prompts")
        if direction is not None and own_pairs:
            raise _refusal_here("nothing: the concept's own pairs already say base and target")
        return direction

    @field_validator("captions")
    @classmethod
    def _captions_are_given(
        cls, captions: tuple[str, ...] | None, info: ValidationInfo
    ) -> tuple[str, ...] | None:
        if captions is None:
            if info.data.get("kind") == "memorised" and info.data.get("prompts", ()) is None:
                raise _refusal_here("a list of at least one memorised caption (or prompts instead)")
            return None
        _refuse_duplicates(map(concept_key, captions), "caption")
        return captions


def _filler_key(filler: str | FillerPair) -> tuple[str, ...]:
    if isinstance(filler, str):
        return (concept_key(filler),)
    return (concept_key(filler.base), concept_key(filler.target))


class Collection(Section):
    """How activations are collected: the denoising run whose first `tau` calls are watched."""

    steps: Annotated[Positive, Field(description="a whole number of at least 1")] = 50
    tau: Annotated[
        Positive,
        Field(validate_default=True, description="a whole number from 1 to collection.steps"),
    ] = 10
    guidance: Annotated[Guidance, Field(description="a number of at least 1")] = 7.5
    guidance_halves: GuidanceHalves = "both"
    scheduler: Scheduler | None = None
    seed: Annotated[Seed, Field(description="a whole number from 0 to 2**63 - 1")] = 0
    batch_size: Annotated[Positive, Field(description="a whole number of at least 1")] = 8
    shard_prompts: Annotated[Positive, Field(description="a whole number of at least 1")] = 32
    window: Annotated[
        Positive | None,
        Field(description="a whole number from 1 to collection.tau, or null for one window of tau"),
    ] = None
    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @field_validator("tau")
    @classmethod
    def _tau_within_steps(cls, tau: int, info: ValidationInfo) -> int:
        if tau > info.data.get("steps", tau):
            raise _refusal_here(f"at most collection.steps, which is {info.data['steps']}")
        return tau

    @field_validator("window")
    @classmethod
    def _window_within_tau(cls, window: int | None, info: ValidationInfo) -> int | None:
        if window is not None and window > info.data.get("tau", window):
            raise _refusal_here(f"at most collection.tau, which is {info.data['tau']}, or null")
        return window


class Pruning(Section):
    """How the weights to zero are selected from the collected statistics."""

    selector: Literal["conceptprune"] = "conceptprune"
    sparsity: Annotated[
        _Float, Field(gt=0, le=1, description="a number above 0 and at most 1 (0.01 is 1 %)")
    ] = 0.01
    tau: Annotated[
        Positive | None,
        Field(description="a whole number from 1 to collection.tau, or null for all collected"),
    ] = None
    threshold: Annotated[
        _Float, Field(ge=0, lt=1, description="a number of at least 0 and below 1")
    ] = 0.0
    min_per_row: Annotated[_Int, Field(ge=0, description="a whole number of at least 0")] = 0
    site: Literal["ffn_out"] = "ffn_out"
    base: Literal["plain", "plain+retained-mean", "plain+retained-max"] = "plain"


class Preview(Section):
    """Images before and after, for the report."""

    seeds: Annotated[
        Some[Seed],
        Field(description="a list of at least one seed, none of them twice"),
    ] = (0, 1)
    steps: Annotated[Positive, Field(description="a whole number of at least 1")] = 50
    guidance: Annotated[Guidance, Field(description="a number of at least 1")] = 7.5
    judge: Literal["studio"] | None = None
    batch_size: Annotated[Positive, Field(description="a whole number of at least 1")] = 8
    prompts_per_concept: Annotated[Positive, Field(description="a whole number of at least 1")] = 4
    retained_prompts: Annotated[_Int, Field(ge=0, description="a whole number of at least 0")] = 1

    @field_validator("seeds")
    @classmethod
    def _no_duplicates(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        _refuse_duplicates(seeds, "seed")
        return seeds


class Outputs(Section):
    """What is written beside the masks."""

    deltas: Annotated[_Bool, Field(description="true or false")] = False
    pipelines: Annotated[_Bool, Field(description="true or false")] = False
    fuse: Literal["union"] | None = None
    preview: Annotated[
        Preview | None, Field(description="null, or a section of its own ({} for its defaults)")
    ] = None


class Compute(Section):
    """How the job runs; none of it changes a result."""

    actors: Annotated[Positive, Field(description="a whole number of at least 1")] = 2
    cpus_per_actor: Annotated[_Float, Field(gt=0, description="a number above 0")] = 1.0
    gpus_per_actor: Annotated[_Float, Field(ge=0, description="a number of at least 0")] = 0.0
    threads_per_actor: Annotated[Positive, Field(description="a whole number of at least 1")] = 1
    max_attempts: Annotated[Positive, Field(description="a whole number of at least 1")] = 3


class Manifest(Section):
    """A whole manifest: the model, the concepts to erase from it, and how.

    After validation each concept carries the fillers that hold for it: its own, else those of
    the manifest's `fillers` for its kind, else None for the published ones.
    """

    version: Annotated[_Int, Field(ge=1, le=1, description="1, the only version there is")]
    model: Annotated[
        ModelRef, Field(description="a section with one of builtin, folder, hub (with revision)")
    ]
    fillers: DefaultFillers = DefaultFillers()
    concepts: Annotated[
        Some[Concept],
        Field(description="a list of at least one {name, kind, ...}"),
    ]
    retain: Annotated[
        tuple[Concept, ...], Field(description="a list of concepts, {name, kind, ...}")
    ] = ()
    collection: Collection = Collection()
    pruning: Annotated[Pruning, Field(validate_default=True)] = Pruning()
    outputs: Outputs = Outputs()
    compute: Compute = Compute()

    @field_validator("concepts", "retain")
    @classmethod
    def _names_are_unique(
        cls, concepts: tuple[Concept, ...], info: ValidationInfo
    ) -> tuple[Concept, ...]:
        first_seen: dict[str, int] = {}
        problems: list[tuple[FieldPath, str]] = []
        for index, concept in enumerate(concepts):
            first = first_seen.setdefault(concept_key(concept.name), index)
            if first != index:
                problems.append(
                    (
                        (index, "name"),
                        f"a name of its own: {info.field_name}[{first}] has the same one "
                        "(upper and lower case and spacing do not count)",
                    )
                )
        if problems:
            raise _refusal(*problems)
        return concepts

    @field_validator("concepts", "retain")
    @classmethod
    def _with_default_fillers(
        cls, concepts: tuple[Concept, ...], info: ValidationInfo
    ) -> tuple[Concept, ...]:
        defaults = dict(info.data.get("fillers", DefaultFillers()))
        return tuple(
            concept
            if concept.fillers or concept.prompts
            else concept.model_copy(update={"fillers": defaults.get(concept.kind)})
            for concept in concepts
        )

    @field_validator("retain")
    @classmethod
    def _retained_means_the_same(
        cls, retain: tuple[Concept, ...], info: ValidationInfo
    ) -> tuple[Concept, ...]:
        """A concept may be erased and retained: it is kept while the others are erased."""
        erased = {concept_key(concept.name): concept for concept in info.data.get("concepts", ())}
        problems: list[tuple[FieldPath, str]] = [
            ((index,), "the same concept as under concepts:, or another name")
            for index, concept in enumerate(retain)
            if erased.get(concept_key(concept.name), concept) != concept
        ]
        if problems:
            raise _refusal(*problems)
        return retain

    @field_validator("pruning")
    @classmethod
    def _pruning_fits_what_is_collected(cls, pruning: Pruning, info: ValidationInfo) -> Pruning:
        collection = info.data.get("collection")
        problems: list[tuple[FieldPath, str]] = []
        if collection and pruning.tau is not None and pruning.tau > collection.tau:
            problems.append((("tau",), f"at most collection.tau, which is {collection.tau}"))
        if pruning.base != "plain" and info.data.get("retain") == ():
            problems.append((("base",), "plain, as the manifest has no retain: list"))
        if problems:
            raise _refusal(*problems)
        return pruning
