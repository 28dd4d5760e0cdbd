"""How weights are selected: for all concepts of a manifest, for one of them, and as published.

What a concept's own `pruning` does not say holds as the manifest's `pruning` has it. What neither
says is as published for the concept's kind (`PUBLISHED`).
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

# The settings that only one selector has.
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
"""By kind: ConceptPrune's (arXiv 2405.19237) k, and tau where the checkpoint that its evaluation
loads is of one; Forget-It-All's (arXiv 2601.06163) r2, which takes 3 % for Van Gogh alone. Other
kinds have the defaults of `Selection`."""

PUBLISHED_ALPHA: Mapping[str, float] = {"style": 0.8, "object": 0.6, "nudity": 0.6}
"""By kind: Forget-It-All's alpha, by which `retain-shared` fuses masks."""


class Selection(Section):
    """What decides a selection from given statistics."""

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
    """What of the selection is another for one concept; only what is written counts."""

    @model_serializer(mode="wrap")
    def _what_is_written(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in dump(self).items() if name in self.model_fields_set}

    def misplaced(self, selector: SelectorName) -> Iterator[tuple[str, str]]:
        """Settings of another selector than the one that selects, and what is allowed there."""
        for name in sorted(self.model_fields_set & SELECTOR_OF.keys()):
            if SELECTOR_OF[name] != selector:
                yield name, _not_of(name, selector)


def _not_of(name: str, selector: SelectorName) -> str:
    return (
        f"nothing: it is a setting of selector {SELECTOR_OF[name]}; {selector} has "
        f"{', '.join(settings_of(selector))}"
    )


def settings_of(selector: SelectorName) -> list[str]:
    """Names of the settings that only this selector has."""
    return [name for name, owner in SELECTOR_OF.items() if owner == selector]


class ErasedConcept(Concept):
    """A concept to erase, with what is special about its selection."""

    pruning: Annotated[
        ConceptPruning | None,
        Field(description=f"a section with {', '.join(Selection.model_fields)}"),
    ] = None


class Pruning(Selection):
    """How the weights to zero are selected from the collected statistics.

    `sparsity` is k, the fraction of each row's columns that a single call may select. An entry is
    pruned when more than `threshold * tau` calls select it; 0 is a plain union. `min_per_row`
    selects at least so many columns a row where k of a narrow layer rounds down to none. `r1` is
    the fraction of a layer's weights that count as salient at a single call; an entry is pruned
    when it is among the fraction `r2` both of its row and of its layer. Of the collected calls, the
    first `tau` are looked at.
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
        """The names of `site`, of one or several."""
        return (self.site,) if isinstance(self.site, str) else self.site

    @property
    def selection(self) -> dict[str, Any]:
        """The settings of its selector by name: what decides a selection from given statistics."""
        return {name: getattr(self, name) for name in (*settings_of(self.selector), "tau")}

    def of_concept(self, concept: Concept, num_calls: int) -> "Pruning":
        """How the weights of one concept are selected, where so many calls are collected.

        A setting is the concept's own, else the one that is written here, else the published one.
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
                    # As good as all that are collected, and the same masks as where that is asked.
                    chosen[name] = None
        return Pruning(**chosen)

    def columns_per_row(self, width: int) -> int:
        """How many of a row's `width` columns a single call may select; 0 where k is too small."""
        return min(max(int(self.sparsity * width), self.min_per_row), width)

    def most_entries(self, num_rows: int, width: int, num_calls: int) -> int:
        """The most entries a layer can lose, where so many calls are looked at."""
        if self.selector == "fia":
            return int(self.r2 * num_rows * width)
        # All that no two calls select together.
        calls_needed = int(self.threshold * num_calls) + 1
        return num_rows * min(self.columns_per_row(width) * num_calls // calls_needed, width)
