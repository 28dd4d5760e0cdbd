"""What a job writes in addition to the masks: checkpoints, one mask of all concepts, images."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from conceptprune.manifest.fields import (
    Bool,
    Count,
    Guidance,
    Int,
    Section,
    Seed,
    Some,
    Steps,
    refusal_here,
    refuse_duplicates,
)
from conceptprune.manifest.pruning import PUBLISHED_ALPHA, Fraction

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
    of: Literal["each", "combined"] = "each"
    """Images of each concept's own mask and of the combined checkpoint, or of the latter alone."""
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

    Without a name it is `budget`, which did best on the studio model (`benchmarks/erasure`).
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
