"""The schema of a suite: prompts, how to generate images from them, and how to score the images."""

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from conceptprune.evaluation.attack_settings import Attacks
from conceptprune.evaluation.prompt_files import MAX_BYTES, file_prompts
from conceptprune.evaluation.scorers.base import Domain
from conceptprune.evaluation.scorers.table import AnyScorer, refuse_same_titles
from conceptprune.manifest.collection import Device, Dtype, Scheduler, default_dtype
from conceptprune.manifest.concept import Concept, DefaultFillers, DefaultTemplates
from conceptprune.manifest.fields import (
    Guidance,
    Int,
    Line,
    Name,
    Positive,
    PromptText,
    Section,
    Seed,
    Some,
    concept_key,
    formerly,
    refusal,
    refusal_here,
    refuse_duplicates,
)
from conceptprune.manifest.files import text_beside
from conceptprune.manifest.loading import load_document
from conceptprune.manifest.model import ModelRef
from conceptprune.manifest.schema import Compute
from conceptprune.strict_reading import open_regular

MAX_SEEDS = 10_000
ONE_SOURCE = "exactly one of concept, prompts, file, csv"


class SuitePrompt(Section):
    """A prompt written out."""

    text: Annotated[Line, Field(max_length=10_000, description="the prompt, one line")]
    seed: Annotated[
        Seed | None, Field(description="its own seed, a whole number from 0 to 2**63 - 1")
    ] = None
    guidance: Annotated[Guidance | None, Field(description="its own guidance scale")] = None
    labels: Annotated[
        dict[Domain, Name],
        Field(default_factory=dict, description="what it shows: {style: ..., object: ...}"),
    ]


def _as_prompt(value: Any) -> Any:
    return {"text": value} if isinstance(value, str) else value


class Source(Section):
    """Prompts about one subject: generated for a concept, written out, or read from a file."""

    concept: Annotated[Concept | None, Field(description="a section {name, kind, ...}")] = None
    prompts: Annotated[
        Some[
            Annotated[
                SuitePrompt,
                BeforeValidator(_as_prompt, json_schema_input_type=SuitePrompt | str),
            ]
        ]
        | None,
        Field(description="a list of prompts, each a line or {text, seed, guidance, labels}"),
    ] = None
    file: Annotated[
        PromptText | None, Field(description="a file, one prompt per line, relative to the suite")
    ] = None
    csv: Annotated[
        PromptText | None,
        Field(
            validate_default=True,
            description="a CSV file with a column prompt, relative to the suite",
        ),
    ] = None
    sha256: Annotated[
        str | None,
        Field(
            pattern="^[0-9a-f]{64}$",
            description="the SHA-256 of file or csv, 64 hexadecimal digits",
        ),
    ] = None
    """Makes sure that the prompts are the intended ones, if their file cannot be published."""
    name: Annotated[
        Name | None,
        Field(validate_default=True, description="what the prompts are about, for the summary"),
    ] = None
    domain: Domain | None = None
    """The domain in which `name` is the label of all its prompts."""
    limit: Annotated[
        Positive | None, Field(description="how many of the prompts to take, from the first on")
    ] = None

    @field_validator("csv")
    @classmethod
    def _one_source(cls, csv: str | None, info: ValidationInfo) -> str | None:
        sources = {**info.data, "csv": csv}
        given = [name for name in ("concept", "prompts", "file", "csv") if sources.get(name)]
        # If one of them is wrong, that is already reported.
        known = {"concept", "prompts", "file"} <= info.data.keys()
        if known and len(given) != 1:
            raise refusal_here(f"{ONE_SOURCE} (this has {', '.join(given) or 'none'})")
        return csv

    @field_validator("name")
    @classmethod
    def _named(cls, name: str | None, info: ValidationInfo) -> str | None:
        concept = info.data.get("concept")
        if name is None and concept is None and "concept" in info.data:
            raise refusal_here("a name for what these prompts are about")
        return name or (concept and concept.name)

    @field_validator("domain")
    @classmethod
    def _concepts_say_it(cls, domain: Domain | None, info: ValidationInfo) -> Domain | None:
        if domain is not None and info.data.get("concept") is not None:
            raise refusal_here("nothing: the concept's kind says it")
        return domain

    @field_validator("file", "csv")
    @classmethod
    def _where_it_may_be(cls, file: str | None, info: ValidationInfo) -> str | None:
        if file is None:
            return None
        return str(text_beside(file, info))

    @model_validator(mode="after")
    def _prompts_are_right(self) -> "Source":
        for field, path in (("file", self.file), ("csv", self.csv)):
            if path is None:
                continue
            try:
                file_prompts(Path(path), csv_file=field == "csv", limit=self.limit)
            except PydanticCustomError as error:
                raise refusal(((field,), error.message())) from error
        return self

    @field_validator("sha256")
    @classmethod
    def _is_the_file_that_was_meant(cls, digest: str | None, info: ValidationInfo) -> str | None:
        path = info.data.get("file") or info.data.get("csv")
        if digest is None or not {"file", "csv"} <= info.data.keys():
            return digest
        if path is None:
            raise refusal_here("nothing: only a file or a csv has one")
        try:
            found = _digest_of(path)
        except (OSError, ValueError):
            # Refused where its prompts are read, with the field that names it.
            return digest
        if found != digest:
            raise refusal_here(f"the SHA-256 of {path}, which is {found}: is it the right file?")
        return digest

    @property
    def unpinned(self) -> tuple[str, str] | None:
        """The file of prompts that has no `sha256`, and what that would be now."""
        path = self.file or self.csv
        if path is None or self.sha256 is not None:
            return None
        return path, _digest_of(path)

    @property
    def title(self) -> str:
        """The subject of its prompts."""
        return self.name or ""


def _digest_of(path: str) -> str:
    with open_regular(Path(path), MAX_BYTES) as stream:
        return hashlib.sha256(stream.read(MAX_BYTES)).hexdigest()


Sources = Annotated[
    tuple[Source, ...],
    Field(description=f"a list of sources of prompts, each with {ONE_SOURCE}"),
]


class Groups(Section):
    """Prompts, grouped by what should happen to their images."""

    erased: Sources = ()
    retained: Sources = ()
    general: Annotated[Sources, Field(validate_default=True)] = ()

    @field_validator("erased", "retained", "general")
    @classmethod
    def _names_once(cls, sources: tuple[Source, ...]) -> tuple[Source, ...]:
        refuse_duplicates((concept_key(source.title) for source in sources), "name")
        return sources

    @field_validator("general")
    @classmethod
    def _not_all_empty(
        cls, sources: tuple[Source, ...], info: ValidationInfo
    ) -> tuple[Source, ...]:
        if not sources and info.data.get("erased") == () == info.data.get("retained"):
            raise refusal_here("prompts in at least one of erased, retained, general")
        return sources


class SeedCount(Section):
    """The first `count` seeds (the schema for editors; `_counted` reads it)."""

    count: Annotated[Int, Field(ge=1, le=MAX_SEEDS)]


def _counted(value: Any) -> Any:
    match value:
        case {"count": int(count)} if len(value) == 1 and 1 <= count <= MAX_SEEDS:
            return list(range(count))
    return value


class Generation(Section):
    """How images are generated, including shards and batches, which decide the last bits."""

    steps: Annotated[Positive, Field(description="a whole number of at least 1")] = 50
    guidance: Annotated[Guidance, Field(description="a number of at least 1")] = 7.5
    scheduler: Scheduler | None = None
    resolution: Annotated[
        Positive | None,
        Field(multiple_of=16, description="a multiple of 16, or null for the model's own size"),
    ] = None
    seeds: Annotated[
        Some[Seed],
        BeforeValidator(_counted, json_schema_input_type=Some[Seed] | SeedCount),
        Field(description="a list of seeds, none of them twice, or {count: n} for 0 to n - 1"),
    ] = (0,)
    seed_of: Annotated[
        Literal["prompt", "suite"],
        Field(description="prompt (noise of its own for each text and seed), suite (the same)"),
    ] = "prompt"
    batch_size: Annotated[Positive, Field(description="a whole number of at least 1")] = 8
    shard_prompts: Annotated[Positive, Field(description="a whole number of at least 1")] = 32
    dtype: Dtype | None = None
    """Default: see `default_dtype`."""
    device: Device = "auto"

    @field_validator("seeds")
    @classmethod
    def _no_duplicates(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        refuse_duplicates(seeds, "seed")
        return seeds


class Intervals(Section):
    """How 95 % intervals are computed: percentiles of bootstrap resamples of the images."""

    resamples: Annotated[
        Int, Field(ge=100, le=100_000, description="a whole number from 100 to 100000")
    ] = 2000
    seed: Annotated[Seed, Field(description="a whole number from 0 to 2**63 - 1")] = 0


class Suite(Section):
    """A whole suite."""

    version: Annotated[Int, Field(ge=1, le=1, description="1, the only version there is")]
    name: Annotated[Name, Field(description="one line, the suite's name")]
    model: Annotated[
        ModelRef, Field(description="a section with one of builtin, folder, file, uri, hub")
    ]
    fillers: DefaultFillers = DefaultFillers()
    templates: DefaultTemplates = DefaultTemplates()
    groups: Annotated[Groups, Field(description="a section with erased, retained, general")]
    generation: Annotated[Generation, formerly("generation", "drawing")] = Generation()
    scorers: Annotated[
        Some[AnyScorer], Field(description="a list of at least one {scorer: ..., settings}")
    ]
    groupings: Annotated[
        tuple[Literal["unlearncanvas"], ...], Field(description="a list: unlearncanvas")
    ] = ()
    intervals: Intervals = Intervals()
    attacks: Attacks = Attacks()
    compute: Compute = Compute()

    @property
    def dtype(self) -> Dtype:
        """The model's floating-point type, or the default if the suite names none."""
        generation = self.generation
        return generation.dtype or default_dtype(generation.device, self.compute.gpus_per_actor)

    @field_validator("scorers")
    @classmethod
    def _titles_once(cls, scorers: tuple[AnyScorer, ...]) -> tuple[AnyScorer, ...]:
        refuse_same_titles(scorers)
        return scorers

    @field_validator("groupings")
    @classmethod
    def _domain_is_known(cls, groupings: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        groups = info.data.get("groups")
        if groupings and groups and erased_domain(groups) is None:
            raise refusal_here(
                "nothing, as the erased concepts are not all styles, nor all objects: "
                "UnlearnCanvas tells one domain from the other"
            )
        return groupings


def erased_domain(groups: Groups) -> Domain | None:
    """The domain of all erased concepts, if they share one."""
    kinds = {source.concept.kind if source.concept else source.domain for source in groups.erased}
    match kinds:
        case _ if kinds == {"style"}:
            return "style"
        case _ if kinds == {"object"}:
            return "object"
    return None


def load_suite(path: Path | str) -> Suite:
    """Read and check the suite at `path`.

    Raises:
        ManifestError: it cannot be read or breaks a rule; the message lists every problem.
    """
    return load_document(path, Suite)
