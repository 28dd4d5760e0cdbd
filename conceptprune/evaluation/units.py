"""Units of an evaluation: images, what scorers say of them (of previews too), and the summary."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from conceptprune.models.prompt import Prompt
from conceptprune.units.unit import Need, Unit
from conceptprune.units.units import PreviewUnit

if TYPE_CHECKING:
    # These import torch, which readers of records do not need.
    from conceptprune.evaluation.checkpoint import Checkpoint, ImageModel
    from conceptprune.evaluation.items import Item
    from conceptprune.evaluation.scorers.base import Case, Facts, ScorerSettings
    from conceptprune.units.sizes import Sizes


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagesUnit(Unit):
    """Generate the images of one shard of prompts with one checkpoint."""

    warm = True
    intermediate = True

    key: str
    image_model: "ImageModel"
    prompts: tuple[Prompt, ...]
    steps: int
    guidance: float
    branches: int
    """Guidance branches of a denoiser call: 2 with classifier-free guidance, else 1."""
    batch_size: int

    @property
    def detail(self) -> str:
        """How many images, and with which edit."""
        edit = self.image_model.edit
        return f"{len(self.prompts)} images with {edit.kind if edit else 'no'} edit"

    @property
    def applies(self) -> tuple[str, ...]:
        """Path in the store of the edit, which was not made by a unit."""
        return self.image_model.applies

    @property
    def evaluations(self) -> int:
        """Prompts x guidance branches x steps."""
        return len(self.prompts) * self.branches * self.steps


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoresUnit(Unit):
    """Score one shard of images with one scorer."""

    warm = True
    intermediate = True

    key: str
    images: str
    references: str | None
    """Key of the base model's images of the same shard, for a scorer that compares."""
    scorer: "ScorerSettings"
    facts: "Facts"
    cases: "tuple[Case, ...]"

    @property
    def detail(self) -> str:
        """The scorer's name."""
        return self.scorer.title

    @property
    def needs(self) -> tuple[Need, ...]:
        """The images, and the reference images."""
        others = () if self.references is None else ((ImagesUnit.kind, self.references),)
        return ((ImagesUnit.kind, self.images), *others)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetScoresUnit(Unit):
    """Score all images of one checkpoint and group, as a set, with one scorer."""

    title = "Scores of sets"
    warm = True
    intermediate = True

    key: str
    images: tuple[str, ...]
    references: tuple[str, ...]
    """Keys of the base model's images; empty if the scorer has its own references."""
    scorer: "ScorerSettings"
    facts: "Facts"
    prompts: tuple[Prompt, ...]
    """Which of the images belong to the group."""

    @property
    def detail(self) -> str:
        """The scorer's name."""
        return self.scorer.title

    @property
    def needs(self) -> tuple[Need, ...]:
        """The images on both sides."""
        keys = dict.fromkeys((*self.images, *self.references))
        return tuple((ImagesUnit.kind, key) for key in keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredBy:
    """One scorer in a summary, and the units with its numbers for one checkpoint."""

    scorer: "ScorerSettings"
    facts: "Facts"
    scores: tuple[str, ...] = ()
    """Keys of `ScoresUnit`, one per shard."""
    sets: tuple[tuple[str, str], ...] = ()
    """(group, key of `SetScoresUnit`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One checkpoint in a summary."""

    checkpoint: "Checkpoint"
    images: tuple[str, ...]
    """Keys of its images, one per shard."""
    scored: tuple[ScoredBy, ...]
    own: bool = False
    """Whether it has no images of erased concepts that the checkpoint does not claim."""

    @property
    def needs(self) -> tuple[Need, ...]:
        """Its images and numbers."""
        images = [(ImagesUnit.kind, key) for key in self.images]
        scores = [(ScoresUnit.kind, key) for one in self.scored for key in one.scores]
        sets = [(SetScoresUnit.kind, key) for one in self.scored for _, key in one.sets]
        return (*images, *scores, *sets)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationUnit(Unit):
    """Put the numbers of all checkpoints into one table, with their intervals."""

    title = "Summaries"

    key: str
    suite: str
    entries: tuple[Entry, ...]
    items: "tuple[Item, ...]"
    resamples: int
    seed: int
    """Seed of the bootstrap."""
    erased: Literal["style", "object"] | None
    """The domain of all erased concepts, if they share one."""
    unlearncanvas: bool
    """Whether the numbers are also grouped as UnlearnCanvas does."""

    @property
    def detail(self) -> str:
        """The suite's name."""
        return self.suite

    @property
    def needs(self) -> tuple[Need, ...]:
        """Every checkpoint's images and numbers."""
        return tuple(dict.fromkeys(need for entry in self.entries for need in entry.needs))


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewScoresUnit(Unit):
    """Have one scorer look at the images of one preview."""

    title = "Scores"
    warm = True

    key: str
    preview: str
    scorer: "ScorerSettings"
    facts: "Facts"
    cases: "tuple[Case, ...]"

    @property
    def detail(self) -> str:
        """Whose scores."""
        return self.scorer.title

    @property
    def needs(self) -> tuple[Need, ...]:
        """The images."""
        return ((PreviewUnit.kind, self.preview),)

    def bytes_written(self, sizes: "Sizes", units: Mapping[str, Unit]) -> int:
        """A row for each image and metric."""
        return sizes.table(len(self.cases) * len(self.scorer.metrics))
