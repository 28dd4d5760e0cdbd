"""How weights are selected: for all concepts of a manifest, for one of them, and as published.

A setting missing from the concept's own `pruning` comes from the manifest's `pruning`. If both
leave it out, the published value for the concept's kind holds (`PUBLISHED`).
"""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Strict,
    Tag,
    ValidationInfo,
    field_validator,
    model_serializer,
)

from conceptprune.manifest.concept import Concept, Kind
from conceptprune.manifest.fields import Float, Int, Positive, Section, Some, refusal_here
from conceptprune.models.sites import PATTERN_PREFIX, SITES


def _site_name(name: str) -> str:
    if name.startswith(PATTERN_PREFIX):
        try:
            re.compile(name.removeprefix(PATTERN_PREFIX))
        except re.error as error:
            raise refusal_here(f"'re:' and a regular expression (this one: {error})") from error
    elif name not in SITES:
        raise refusal_here(f"one of {', '.join(SITES)}, or 're:' and a regular expression")
    return name


SiteName = Annotated[str, Strict(), AfterValidator(_site_name)]


def _one_or_several(value: Any) -> str:
    return "<one>" if isinstance(value, str) else "<several>"


BaseRule = Literal["plain", "plain+retained-mean", "plain+retained-max"]
SelectorName = Literal["conceptprune", "fia"]

# Settings that belong to one selector only.
SELECTOR_OF: dict[str, SelectorName] = {
    "sparsity": "conceptprune",
    "threshold": "conceptprune",
    "min_per_row": "conceptprune",
    "r1": "fia",
    "r2": "fia",
}
Fraction = Annotated[Float, Field(gt=0, le=1)]


PUBLISHED: Mapping[Kind, Mapping[str, Any]] = {
    "style": {"sparsity": 0.01, "r2": 0.02},
    "object": {"sparsity": 0.02, "r2": 0.007},
    "nudity": {"sparsity": 0.01, "tau": 9, "r2": 0.01},
    "bias": {"sparsity": 0.01, "tau": 10},
}
"""By kind: ConceptPrune's k (arXiv 2405.19237), and its tau if the checkpoint loaded by its
evaluation uses one; Forget-It-All's r2 (arXiv 2601.06163; 3 % for Van Gogh alone). Other kinds have
the defaults of `Selection`."""

PUBLISHED_ALPHA: Mapping[str, float] = {"style": 0.8, "object": 0.6, "nudity": 0.6}
"""By kind: Forget-It-All's alpha, which `retain-shared` fusion uses."""


class Selection(Section):
    """The settings that decide a selection from given statistics."""

    selector: SelectorName = "conceptprune"
    sparsity: Annotated[
        Fraction, Field(description="a number above 0 and at most 1 (0.01 is 1 %)")
    ] = 0.01
    tau: Annotated[
        Positive | None,
        Field(description="a whole number from 1 to collection.tau, or null for all collected"),
    ] = None
    threshold: Annotated[
        Float, Field(ge=0, lt=1, description="a number of at least 0 and below 1")
    ] = 0.0
    min_per_row: Annotated[Int, Field(ge=0, description="a whole number of at least 0")] = 0
    r1: Annotated[Fraction, Field(description="a number above 0 and at most 1")] = 0.05
    r2: Annotated[Fraction, Field(description="a number above 0 and at most 1")] = 0.02


class ConceptPruning(Selection):
    """Selection settings that differ for one concept; only those written out count."""

    @model_serializer(mode="wrap")
    def _what_is_written(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in dump(self).items() if name in self.model_fields_set}

    def misplaced(self, selector: SelectorName) -> Iterator[tuple[str, str]]:
        """Settings that belong to a selector not in use, and what is allowed there."""
        for name in sorted(self.model_fields_set & SELECTOR_OF.keys()):
            if SELECTOR_OF[name] != selector:
                yield name, _not_of(name, selector)


def _not_of(name: str, selector: SelectorName) -> str:
    return (
        f"nothing: it is a setting of selector {SELECTOR_OF[name]}; {selector} has "
        f"{', '.join(settings_of(selector))}"
    )


def settings_of(selector: SelectorName) -> list[str]:
    """Names of the settings that belong to this selector only."""
    return [name for name, owner in SELECTOR_OF.items() if owner == selector]


class ErasedConcept(Concept):
    """A concept to erase, with its own selection settings."""

    pruning: Annotated[
        ConceptPruning | None,
        Field(description=f"a section with {', '.join(Selection.model_fields)}"),
    ] = None


class Pruning(Selection):
    """How the weights to zero are selected from the collected statistics.

    `sparsity` is k, the fraction of each row's columns that one denoiser call may select
    (`conceptprune tune` finds the least that is enough for each concept of a model). An entry is
    pruned when more than `threshold * tau` calls select it; 0 is a plain union. `min_per_row` is
    the least number of columns per row, for narrow layers in which k rounds down to none. `r1` is
    the fraction of a layer's weights that count as salient at one call; an entry is pruned when it
    is among the fraction `r2` both of its row and of its layer. Only the first `tau` of the
    collected calls are used.
    """

    site: Annotated[
        Annotated[SiteName, Tag("<one>")] | Annotated[Some[SiteName], Tag("<several>")],
        Discriminator(_one_or_several),
        Field(
            description=f"one of {', '.join(SITES)}, or a list of them, or 're:' and a regular "
            "expression for the module names of linears in the denoiser"
        ),
    ] = "ffn_out"
    base: BaseRule = "plain"

    @field_validator(*SELECTOR_OF)
    @classmethod
    def _belongs_to_the_selector(cls, value: Any, info: ValidationInfo) -> Any:
        name = info.field_name or ""
        selector = info.data.get("selector", SELECTOR_OF[name])
        if selector != SELECTOR_OF[name] and value != cls.model_fields[name].default:
            raise refusal_here(_not_of(name, selector))
        return value

    @property
    def sites(self) -> tuple[str, ...]:
        """The names in `site`, whether it is one or several."""
        return (self.site,) if isinstance(self.site, str) else self.site

    @property
    def selection(self) -> dict[str, Any]:
        """The settings of its selector by name: they decide a selection from given statistics."""
        return {name: getattr(self, name) for name in (*settings_of(self.selector), "tau")}

    def of_concept(self, concept: Concept, num_calls: int) -> "Pruning":
        """How the weights of one concept are selected from `num_calls` collected calls.

        A setting is the concept's own, or else the one written here, or else the published one.
        """
        own = concept.pruning if isinstance(concept, ErasedConcept) else None
        written = {} if own is None else {name: getattr(own, name) for name in own.model_fields_set}
        selector = written.get("selector", self.selector)
        chosen: dict[str, Any] = {"selector": selector, "site": self.site, "base": self.base}
        for name in (*settings_of(selector), "tau"):
            if name in written:
                chosen[name] = written[name]
            elif name in self.model_fields_set:
                chosen[name] = getattr(self, name)
            elif name in PUBLISHED.get(concept.kind, {}):
                chosen[name] = PUBLISHED[concept.kind][name]
                if name == "tau" and chosen[name] >= num_calls:
                    # Equal to all collected calls: the same mask key as if that were written.
                    chosen[name] = None
        return Pruning(**chosen)

    def columns_per_row(self, width: int) -> int:
        """How many of a row's `width` columns one call may select; 0 if k is too small."""
        return min(max(int(self.sparsity * width), self.min_per_row), width)

    def most_entries(self, num_rows: int, width: int, num_calls: int) -> int:
        """The most entries that a layer can lose if `num_calls` calls are used."""
        if self.selector == "fia":
            return int(self.r2 * num_rows * width)
        # Reached if no two calls select the same entry.
        calls_needed = int(self.threshold * num_calls) + 1
        return num_rows * min(self.columns_per_row(width) * num_calls // calls_needed, width)
