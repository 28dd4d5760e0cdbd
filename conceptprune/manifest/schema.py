"""The schema of a manifest: what a batch of erasures consists of, and every rule it must follow.

A rule about two fields is checked on the later one, so that the message can point at a line.
Defaults are the published settings of ConceptPrune (arXiv 2405.19237).
"""

from itertools import product
from typing import Annotated, Any, Self

from pydantic import (
    BeforeValidator,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from conceptprune.manifest.collection import Collection, Dtype, default_dtype
from conceptprune.manifest.concept import Concept, DefaultFillers, DefaultTemplates
from conceptprune.manifest.concept_lists import LISTS, ConceptList, listed_concepts, place_of
from conceptprune.manifest.fields import (
    Count,
    FieldPath,
    Float,
    Int,
    Positive,
    Section,
    Some,
    concept_key,
    refusal,
    refusal_here,
    refuse_duplicates,
)
from conceptprune.manifest.generator import Prompts
from conceptprune.manifest.model import ModelRef
from conceptprune.manifest.outputs import Outputs
from conceptprune.manifest.pruning import (
    ErasedConcept,
    Fraction,
    Pruning,
    SelectorName,
    settings_of,
)
from conceptprune.manifest.reword import Method, Reword
from conceptprune.models.settings import Offload

FRACTIONS = "a list of numbers above 0 and at most 1, none of them twice"


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
    method: Method = "conceptprune"
    """How the combined checkpoint is made: by fusing the concepts' masks, if `outputs.fuse` says
    so, or by rewording their prompts. Each concept's own mask is ConceptPrune's either way."""
    reword: Annotated[
        Reword | None, Field(description="a section of its own, with method: reword")
    ] = None
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

    @property
    def rewording(self) -> Reword | None:
        """The settings of rewording, or None if another method is asked for."""
        return (self.reword or Reword()) if self.method == "reword" else None

    @field_validator("reword")
    @classmethod
    def _belongs_to_the_method(cls, reword: Reword | None, info: ValidationInfo) -> Reword | None:
        if reword is not None and info.data.get("method", "reword") != "reword":
            raise refusal_here("nothing: its settings are of method: reword")
        return reword

    @field_validator("outputs")
    @classmethod
    def _one_method_combines(cls, outputs: Outputs, info: ValidationInfo) -> Outputs:
        rewords = info.data.get("method") == "reword"
        if outputs.fuse is not None and rewords:
            raise refusal((("fuse",), "null, as method: reword makes the combined checkpoint"))
        combines = rewords or outputs.fuse is not None
        if outputs.preview and outputs.preview.of == "combined" and not combines:
            raise refusal(
                (("preview", "of"), "each, as neither outputs.fuse nor method: reword combines")
            )
        return outputs

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
