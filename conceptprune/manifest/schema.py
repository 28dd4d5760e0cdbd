"""The schema of a manifest: what a batch of erasures consists of, and every rule it must follow.

A rule about two fields is checked on the later one, so that the message can point at a line.
Defaults are the published settings of ConceptPrune (arXiv 2405.19237).
"""

from collections.abc import Iterable
from itertools import product
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    BeforeValidator,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from conceptprune.manifest.concept import Concept, DefaultFillers, DefaultTemplates
from conceptprune.manifest.concept_lists import LISTS, ConceptList, listed_concepts, place_of
from conceptprune.manifest.fields import (
    Bool,
    Count,
    FieldPath,
    Float,
    Guidance,
    Int,
    Positive,
    Section,
    Seed,
    Some,
    Steps,
    concept_key,
    formerly,
    refusal,
    refusal_here,
    refuse_duplicates,
)
from conceptprune.manifest.generator import Prompts
from conceptprune.manifest.model import ModelRef
from conceptprune.manifest.pruning import (
    PUBLISHED_ALPHA,
    ErasedConcept,
    Fraction,
    Pruning,
    SelectorName,
    settings_of,
)
from conceptprune.models.settings import Offload

Scheduler = Literal[
    "DDIMScheduler",
    "DPMSolverMultistepScheduler",
    "EulerDiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
]


GuidanceBranches = Literal["both", "conditional"]
FRACTIONS = "a list of numbers above 0 and at most 1, none of them twice"

Dtype = Literal["float16", "bfloat16", "float32"]
Device = Literal["auto", "cpu", "cuda"]


def default_dtype(device: Device, gpus_per_actor: float) -> Dtype:
    """The dtype that is fast on the actors' device: on a CPU, float16 is 15 times slower."""
    on_gpu = device == "cuda" or (device == "auto" and gpus_per_actor > 0)
    return "float16" if on_gpu else "float32"


class Collection(Section):
    """How activations are collected: the denoising run, and `tau`, the number of recorded calls."""

    steps: Annotated[Steps, Field(description="a whole number from 1 to 1000")] = 50
    tau: Annotated[
        Positive,
        Field(validate_default=True, description="a whole number from 1 to collection.steps"),
    ] = 10
    guidance: Annotated[Guidance, Field(description="a number of at least 1")] = 7.5
    guidance_branches: Annotated[
        GuidanceBranches, formerly("guidance_branches", "guidance_halves")
    ] = "both"
    scheduler: Scheduler | None = None
    resolution: Annotated[
        Positive | None,
        Field(multiple_of=16, description="a multiple of 16, or null for the model's own size"),
    ] = None
    seed: Annotated[Seed, Field(description="a whole number from 0 to 2**63 - 1")] = 0
    batch_size: Annotated[Count, Field(description="a whole number from 1 to 100000")] = 8
    shard_prompts: Annotated[Count, Field(description="a whole number from 1 to 100000")] = 32
    window: Annotated[
        Positive | None,
        Field(description="a whole number from 1 to collection.tau, or null for one window of tau"),
    ] = None
    dtype: Dtype | None = None
    """Default: see `default_dtype`."""
    device: Device = "auto"

    @property
    def sum_parts(self) -> dict[str, Any]:
        """The settings that decide a call's sums, besides the model, the prompts and the site."""
        return {
            "steps": self.steps,
            "guidance": self.guidance,
            "halves": self.guidance_branches,
            "batch_size": self.batch_size,
        }

    def recorded(self, site: str | tuple[str, ...]) -> dict[str, Any]:
        """How statistics of `site` were collected, as masks record it."""
        return {**self.sum_parts, "tau": self.tau, "site": site}

    @field_validator("tau")
    @classmethod
    def _tau_within_steps(cls, tau: int, info: ValidationInfo) -> int:
        if tau > info.data.get("steps", tau):
            raise refusal_here(f"at most collection.steps, which is {info.data['steps']}")
        return tau

    @field_validator("window")
    @classmethod
    def _window_within_tau(cls, window: int | None, info: ValidationInfo) -> int | None:
        if window is not None and window > info.data.get("tau", window):
            raise refusal_here(f"at most collection.tau, which is {info.data['tau']}, or null")
        return window


class Sweep(Section):
    """Pruning settings to compare; settings left out are those under pruning."""

    selector: Annotated[
        Some[SelectorName] | None, Field(description="a list of selectors, none of them twice")
    ] = None
    sparsity: Annotated[Some[Fraction] | None, Field(description=FRACTIONS)] = None
    tau: Annotated[
        Some[Positive] | None, Field(description="a list of numbers from 1 to collection.tau")
    ] = None
    threshold: Annotated[
        Some[Annotated[Float, Field(ge=0, lt=1)]] | None,
        Field(description="a list of numbers of at least 0 and below 1"),
    ] = None
    r1: Annotated[Some[Fraction] | None, Field(description=FRACTIONS)] = None
    r2: Annotated[Some[Fraction] | None, Field(description=FRACTIONS)] = None

    @field_validator("*")
    @classmethod
    def _no_duplicates(cls, values: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        refuse_duplicates(values or (), "value")
        return values

    def settings(self, pruning: Pruning) -> tuple[Pruning, ...]:
        """Every combination, each selector with its own settings only, in the order written."""
        made = []
        for selector in self.selector or (pruning.selector,):
            names = (*settings_of(selector), "tau")
            fields = [name for name in names if getattr(self, name, None) is not None]
            for values in product(*(getattr(self, name) for name in fields)):
                changes = dict(zip(fields, values, strict=True))
                made.append(pruning.model_copy(update={"selector": selector, **changes}))
        return tuple(made)


SCORER_PLACES = frozenset({"model", "features", "reference", "torchscript", "originals", "weights"})
"""Scorer fields that name files: the files' content decides results, not their location."""


class Preview(Section):
    """Images before and after, for the report."""

    seeds: Annotated[
        Some[Seed],
        Field(description="a list of at least one seed, none of them twice"),
    ] = (0, 1)
    steps: Annotated[Steps, Field(description="a whole number from 1 to 1000")] = 50
    guidance: Annotated[Guidance, Field(description="a number of at least 1")] = 7.5
    scorers: Annotated[
        tuple[Any, ...],
        Field(description="a list of {scorer: ..., settings}, as in a suite"),
    ] = ()
    """What scores the images. A higher layer knows the scorers: `evaluation.job_manifest` checks
    these sections and turns them into settings."""
    judge: Literal["studio"] | None = None
    """The older spelling of `scorers: [{scorer: studio-judge}]`."""
    batch_size: Annotated[Count, Field(description="a whole number from 1 to 100000")] = 8
    prompts_per_concept: Annotated[Count, Field(description="a whole number from 1 to 100000")] = 4
    retained_prompts: Annotated[Int, Field(ge=0, description="a whole number of at least 0")] = 1

    @field_validator("seeds")
    @classmethod
    def _no_duplicates(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        refuse_duplicates(seeds, "seed")
        return seeds


FuseName = Literal["union", "retain-shared", "budget"]
FUSE_FORMS = "union, retain-shared, budget, true (for budget), or a section with how"


class Fuse(Section):
    """How the masks of all concepts are fused; a bare name means its defaults.

    - `union` prunes every entry that any concept's mask prunes.
    - `retain-shared` keeps what many concepts share, since it is specific to none of them (FIA): an
      entry in at least `ceil(alpha * C)` of the C masks, but never one that is in only one mask.
    - `budget` prunes at most `fraction` of the site's weights (`masks.budget` says which).

    Without a name it is `budget`, which did best on the demo model (`benchmarks/erasure`).
    """

    how: FuseName = "budget"
    alpha: Annotated[
        Fraction | None, Field(description="a number above 0 and at most 1, of retain-shared")
    ] = None
    fraction: Annotated[
        Fraction | None, Field(description="a number above 0 and at most 1, of budget")
    ] = None

    @field_validator("alpha", "fraction")
    @classmethod
    def _belongs_to_the_fusion(cls, value: float | None, info: ValidationInfo) -> float | None:
        owner = "retain-shared" if info.field_name == "alpha" else "budget"
        if value is not None and info.data.get("how", owner) != owner:
            raise refusal_here(f"nothing: it is a setting of {owner}")
        return value

    @property
    def settings(self) -> dict[str, float]:
        """The setting of its kind of fusion by name, or the default; a union has none."""
        match self.how:
            case "retain-shared":
                return {"alpha": 0.8 if self.alpha is None else self.alpha}
            case "budget":
                return {"fraction": 0.02 if self.fraction is None else self.fraction}
        return {}

    def for_kinds(self, kinds: Iterable[str]) -> "Fuse":
        """A copy with the published alpha for these kinds of concepts, unless alpha is given.

        If their published values differ or are missing, alpha is 0.8, the value for styles.
        """
        alphas = {PUBLISHED_ALPHA.get(kind, 0.8) for kind in kinds}
        if self.how != "retain-shared" or self.alpha is not None or len(alphas) != 1:
            return self
        return self.model_copy(update={"alpha": alphas.pop()})

    @property
    def key_parts(self) -> dict[str, Any]:
        """The settings that decide the fused mask."""
        return {"how": self.how, **self.settings}


def _fuse_section(value: Any) -> Any:
    """Expand the short forms `union` and `true` to a section; false means no fusion."""
    match value:
        case bool():
            return {} if value else None
        case str() if value in get_args(FuseName):
            return {"how": value}
        case None | dict() | Fuse():
            return value
    raise refusal_here(FUSE_FORMS)


class Outputs(Section):
    """What is written in addition to the masks."""

    deltas: Annotated[Bool, Field(description="true or false")] = False
    pipelines: Annotated[Bool, Field(description="true or false")] = False
    fuse: Annotated[
        Fuse | None,
        BeforeValidator(_fuse_section, json_schema_input_type=Fuse | FuseName | bool | None),
        Field(description=FUSE_FORMS, examples=list(get_args(FuseName))),
    ] = None
    preview: Annotated[
        Preview | None, Field(description="null, or a section of its own ({} for its defaults)")
    ] = None


class Compute(Section):
    """How the job runs; keys do not depend on it.

    `threads_per_actor` can change the last bits of sums: use one value for each store.
    """

    actors: Annotated[
        Int,
        Field(
            ge=0,
            le=100_000,
            description="a whole number from 0 to 100000; 0 is without Ray: the command's own "
            "process does all units, one after another",
        ),
    ] = 2
    cpus_per_actor: Annotated[Float, Field(gt=0, description="a number above 0")] = 1.0
    gpus_per_actor: Annotated[Float, Field(ge=0, description="a number of at least 0")] = 0.0
    threads_per_actor: Annotated[Count, Field(description="a whole number from 1 to 100000")] = 1
    max_attempts: Annotated[Count, Field(description="a whole number from 1 to 100000")] = 3
    offload: Offload = "encoders"
    """Which parts of the model leave an actor's device when idle (see `models.settings`)."""
    claim_seconds: Annotated[Float, Field(ge=1, description="a number of at least 1")] = 30.0
    """The longest time that a dead worker can hold up other jobs on the same store."""


def _prompts_of(concept: Concept) -> dict[str, Any]:
    """Everything about a concept that decides its prompts."""
    return {name: getattr(concept, name) for name in Concept.model_fields}


class Manifest(Section):
    """A whole manifest: the model, the concepts to erase from it, and how.

    After validation, each concept carries the fillers and template that apply to it: its own, or
    else those for its kind in the manifest's `fillers` and `templates`, or else None for the
    published ones.
    """

    version: Annotated[Int, Field(ge=1, le=1, description="1, the only version there is")]
    model: Annotated[
        ModelRef,
        Field(
            description="a section with one of builtin, folder, file (with config), uri, hub (with "
            "revision)"
        ),
    ]
    fillers: DefaultFillers = DefaultFillers()
    templates: DefaultTemplates = DefaultTemplates()
    concepts: Annotated[
        Some[ErasedConcept],
        BeforeValidator(listed_concepts, json_schema_input_type=Some[ErasedConcept] | ConceptList),
        Field(description=f"a list of at least one {{name, kind, ...}}, or {LISTS}"),
    ]
    retain: Annotated[
        tuple[Concept, ...],
        BeforeValidator(listed_concepts, json_schema_input_type=tuple[Concept, ...] | ConceptList),
        Field(description=f"a list of concepts, {{name, kind, ...}}, or {LISTS}"),
    ] = ()
    prompts: Prompts = Prompts()
    collection: Collection = Collection()
    pruning: Annotated[Pruning, Field(validate_default=True)] = Pruning()
    sweep: Annotated[Sweep | None, Field(description="a section with lists of settings")] = None
    outputs: Outputs = Outputs()
    compute: Compute = Compute()

    @property
    def dtype(self) -> Dtype:
        """The model's floating-point type, or the default if the manifest names none."""
        collection = self.collection
        return collection.dtype or default_dtype(collection.device, self.compute.gpus_per_actor)

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
                        f"a name of its own: {place_of(first, info)} has the same one "
                        "(upper and lower case and spacing do not count)",
                    )
                )
        if problems:
            raise refusal(*problems)
        return concepts

    @field_validator("concepts", "retain")
    @classmethod
    def _with_the_manifests_own(
        cls, concepts: tuple[Concept, ...], info: ValidationInfo
    ) -> tuple[Concept, ...]:
        fillers = dict(info.data.get("fillers", DefaultFillers()))
        templates = dict(info.data.get("templates", DefaultTemplates()))
        return tuple(
            concept
            if concept.prompts
            else concept.model_copy(
                update={
                    "fillers": concept.fillers or fillers.get(concept.kind),
                    "template": concept.template or templates.get(concept.kind),
                }
            )
            for concept in concepts
        )

    @field_validator("retain")
    @classmethod
    def _retained_means_the_same(
        cls, retain: tuple[Concept, ...], info: ValidationInfo
    ) -> tuple[Concept, ...]:
        """A concept may be both erased and retained: it is retained while the others are erased."""
        erased = {concept_key(concept.name): concept for concept in info.data.get("concepts", ())}
        problems: list[tuple[FieldPath, str]] = [
            ((index,), "the same concept as under concepts:, or another name")
            for index, concept in enumerate(retain)
            if _prompts_of(erased.get(concept_key(concept.name), concept)) != _prompts_of(concept)
        ]
        if problems:
            raise refusal(*problems)
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
            raise refusal(*problems)
        return pruning

    @field_validator("sweep")
    @classmethod
    def _sweep_fits_what_is_collected(
        cls, sweep: Sweep | None, info: ValidationInfo
    ) -> Sweep | None:
        collection = info.data.get("collection")
        problems: list[tuple[FieldPath, str]] = [
            (("tau", index), f"at most collection.tau, which is {collection.tau}")
            for index, tau in enumerate((sweep and sweep.tau) or ())
            if collection and tau > collection.tau
        ]
        if problems:
            raise refusal(*problems)
        return sweep

    @model_validator(mode="after")
    def _concepts_can_be_selected(self) -> Self:
        """Check each concept's settings: only its selector's, and at most the collected calls."""
        num_calls = self.collection.tau
        problems: list[tuple[FieldPath, str]] = []
        for index, concept in enumerate(self.concepts):
            own = concept.pruning
            if own is None:
                continue
            at = ("concepts", index, "pruning")
            selector = own.selector if "selector" in own.model_fields_set else self.pruning.selector
            problems += [((*at, name), text) for name, text in own.misplaced(selector)]
            if own.tau is not None and own.tau > num_calls:
                problems.append(((*at, "tau"), f"at most collection.tau, which is {num_calls}"))
        if problems:
            raise refusal(*problems)
        return self

    def pruning_of(self, concept: Concept) -> Pruning:
        """How the weights of one concept are selected."""
        return self.pruning.of_concept(concept, self.collection.tau)
