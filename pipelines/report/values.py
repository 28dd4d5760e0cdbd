"""What a report says, as values: the pages only place it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from conceptprune.studio import LABEL

from ..records.asked import Asked
from ..records.concepts import UNCHANGED
from ..scheduling.kinds import title_of
from .accuracy import Accuracy
from .image_pairs import Strip
from .where import HeatMap

Status = Literal["done", "failed", "unfinished"]
Flag = Literal["", "failed", "unfinished", "not checked", "was never there", "still recognised"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KindCost:
    """What one kind of unit took."""

    kind: str
    units: int
    seconds: float
    evaluations: float
    size: float

    @property
    def title(self) -> str:
        """What the kind is called."""
        return title_of(self.kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What results took, whichever job computed them.

    A concept's own: a unit that several concepts share counts in equal parts.
    """

    evaluations: float
    seconds: float
    size: float
    units: Mapping[str, int]
    """Units by status; for a concept, all that it takes part in."""
    kinds: tuple[KindCost, ...]
    """The same by kind of unit, in the order of the work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A unit that could not be done."""

    unit: str
    attempts: int
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskFacts:
    """A mask in numbers, and where its file is."""

    entries: int
    share_of_site: float
    share_of_model: float | None
    digest: str
    path: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ConceptReport:
    """One concept of the run."""

    name: str
    kind: str
    status: Status
    failures: tuple[Failure, ...]
    cost: Cost
    mask: MaskFacts | None
    checkpoints: tuple[tuple[str, int], ...]
    """(path or number of files, bytes) of each checkpoint made."""
    strips: tuple[Strip, ...]
    accuracy: Accuracy | None
    where: HeatMap | None
    erased_at: datetime | None = None
    """When its mask was made."""

    @property
    def flag(self) -> Flag:
        """What a reader must know of it first; empty where it was seen before and no more after."""
        if any(failure.error.startswith(UNCHANGED) for failure in self.failures):
            return "was never there"
        if self.status != "done":
            return self.status
        erased = self.accuracy.erased if self.accuracy else None
        if erased is None or erased.after is None:
            return "not checked"
        if erased.before is not None and not erased.before.hits:
            return "was never there"
        return "still recognised" if erased.after.hits else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """A whole report."""

    run: str
    model: str
    started: datetime
    finished: datetime | None
    asked: Asked
    """The manifest, as plain values."""
    calls: int | None
    """Denoiser calls the masks were selected from; None where that is not known."""
    own_settings: bool
    """Whether some concept was selected by other settings than those that are on record for all."""
    concepts: tuple[ConceptReport, ...]
    failures: tuple[Failure, ...]
    """Units that failed and belong to no one concept."""
    fuses: bool
    """Whether the run asks for one mask of all concepts; `fused` is None where it is not done."""
    fused: MaskFacts | None
    fused_accuracy: Accuracy | None
    fused_strips: tuple[Strip, ...]
    """Images of the combined checkpoint."""
    lacking: tuple[str, ...]
    """Concepts that are not in it, as their masks are not there."""
    untouched: Accuracy | None
    """Before any pruning, over the images of all concepts, each once."""
    scorers: tuple[str, ...]
    """What looked at the images, by name."""
    cost: Cost
    provenance: Mapping[str, Any]
    """What the first mask records of its making: digests and library versions."""
    not_shown: tuple[str, ...] = ()
    """What another version recorded that this one does not know."""

    @property
    def is_demo(self) -> bool:
        """Whether it is of the demo model, which is no evidence about others."""
        return self.model == LABEL

    def count(self, status: Status) -> int:
        """How many concepts have that status."""
        return sum(concept.status == status for concept in self.concepts)
