"""Units of an evaluation: images, what scorers say of them, and the summary."""

from dataclasses import dataclass
from typing import Literal

from conceptprune.evaluation.checkpoint import Checkpoint, Drawn
from conceptprune.evaluation.items import Item
from conceptprune.evaluation.scorers.base import Case, Facts, ScorerSettings
from conceptprune.evaluation.summary import KIND
from conceptprune.models.prompt import Prompt
from conceptprune.units.units import Need


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagesUnit:
    """Draw one shard of prompts with one checkpoint."""

    key: str
    drawn: Drawn
    prompts: tuple[Prompt, ...]
    steps: int
    guidance: float
    batch_size: int
    kind: Literal["images"] = "images"
    needs: tuple[Need, ...] = ()

    @property
    def detail(self) -> str:
        """How many images, and of what."""
        edit = self.drawn.edit
        return f"{len(self.prompts)} images with {edit.kind if edit else 'no'} edit"

    @property
    def applies(self) -> tuple[str, ...]:
        """Path in the store of the edit, which no unit made."""
        return self.drawn.applies


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoresUnit:
    """Have one scorer look at one shard of images."""

    key: str
    images: str
    references: str | None
    """Key of the base model's images of the same shard, for a scorer that compares."""
    scorer: ScorerSettings
    facts: Facts
    cases: tuple[Case, ...]
    kind: Literal["scores"] = "scores"

    @property
    def detail(self) -> str:
        """Whose scores."""
        return self.scorer.title

    @property
    def needs(self) -> tuple[Need, ...]:
        """The images, and those they are compared with."""
        others = () if self.references is None else (("images", self.references),)
        return (("images", self.images), *others)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetScoresUnit:
    """Have one scorer look at all images of one checkpoint and group."""

    key: str
    images: tuple[str, ...]
    references: tuple[str, ...]
    """Keys of the base model's images; empty where the scorer has references of its own."""
    scorer: ScorerSettings
    facts: Facts
    prompts: tuple[Prompt, ...]
    """Which of the images belong to the group."""
    kind: Literal["set-scores"] = "set-scores"

    @property
    def detail(self) -> str:
        """Whose scores."""
        return self.scorer.title

    @property
    def needs(self) -> tuple[Need, ...]:
        """The images on both sides."""
        keys = dict.fromkeys((*self.images, *self.references))
        return tuple(("images", key) for key in keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredBy:
    """One scorer in a summary, and where its numbers of one checkpoint are."""

    scorer: ScorerSettings
    facts: Facts
    scores: tuple[str, ...] = ()
    """Keys of `ScoresUnit`, one a shard."""
    sets: tuple[tuple[str, str], ...] = ()
    """(group, key of `SetScoresUnit`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One checkpoint in a summary."""

    checkpoint: Checkpoint
    images: tuple[str, ...]
    """Keys of its images, one a shard."""
    scored: tuple[ScoredBy, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationUnit:
    """Put the numbers of all checkpoints into one table, with their intervals."""

    key: str
    suite: str
    entries: tuple[Entry, ...]
    items: tuple[Item, ...]
    resamples: int
    seed: int
    """Of the bootstrap."""
    erased: Literal["style", "object"] | None
    """The domain that all erased concepts belong to, if they belong to one."""
    unlearncanvas: bool
    """Whether the numbers are also grouped as UnlearnCanvas does."""
    kind: Literal["evaluation"] = KIND

    @property
    def detail(self) -> str:
        """The suite's name."""
        return self.suite

    @property
    def needs(self) -> tuple[Need, ...]:
        """Every checkpoint's images and numbers."""
        needs: dict[Need, None] = {}
        for entry in self.entries:
            needs |= dict.fromkeys(("images", key) for key in entry.images)
            for scored in entry.scored:
                needs |= dict.fromkeys(("scores", key) for key in scored.scores)
                needs |= dict.fromkeys(("set-scores", key) for _, key in scored.sets)
        return tuple(needs)


AnyEvaluationUnit = ImagesUnit | ScoresUnit | SetScoresUnit | EvaluationUnit
