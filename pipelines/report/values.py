"""The content of a report as values; the pages only arrange it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from conceptprune.studio import LABEL

from ..records.asked import Asked
from ..records.combined import How
from ..records.concepts import UNCHANGED
from ..scheduling.kinds import title_of
from .accuracy import Accuracy
from .erased import Times
from .image_pairs import Strip
from .where import HeatMap

Status = Literal["done", "failed", "unfinished"]
Flag = Literal["", "failed", "unfinished", "not checked", "was never there", "still recognised"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KindCost:
    """The cost of one kind of unit."""

    kind: str
    units: int
    seconds: float
    evaluations: float
    size: float

    @property
    def title(self) -> str:
        """The title of the kind."""
        return title_of(self.kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The cost of results, whichever job computed them.

    For a concept, a unit shared by several concepts is divided equally.
    """

    evaluations: float
    seconds: float
    size: float
    units: Mapping[str, int]
    """Units by status; for a concept, all units that it uses."""
    kinds: tuple[KindCost, ...]
    """The same by kind of unit, in the order of the work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A unit that failed."""

    unit: str
    attempts: int
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskFacts:
    """A mask or a rewording in numbers, and where its file is."""

    entries: int
    """Weights that it edits."""
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
    blocked: tuple[str, ...] = ()
    """What could not be made for want of something that failed, and why."""
    cost: Cost
    mask: MaskFacts | None
    checkpoints: tuple[tuple[str, int], ...]
    """(path or number of files, bytes) of each checkpoint."""
    strips: tuple[Strip, ...]
    accuracy: Accuracy | None
    where: HeatMap | None
    erased_at: datetime | None = None
    """When its mask was made."""
    times: Times | None = None
    """When it was first and last erased, if not only then and by this run."""

    @property
    def flag(self) -> Flag:
        """What a reader must know about it first; empty if it was seen before and not after."""
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
class Words:
    """How a report speaks of a combined checkpoint."""

    title: str
    short: str
    source: str
    """What kind of checkpoint it is, beside those of other kinds."""
    lack: str
    """Why a concept is not in it."""
    not_done: str
    file: str
    edit: str
    """What is before and after an image."""


WORDS: Mapping[How, Words] = {
    "fused": Words(
        title="All of them, in one mask",
        short="All in one mask",
        source="several concepts in one mask",
        lack="for lack of a mask",
        not_done="the masks have not been combined yet",
        file="Mask",
        edit="pruning",
    ),
    "reworded": Words(
        title="All of them, reworded at once",
        short="All reworded",
        source="several concepts reworded at once",
        lack="for lack of its sums",
        not_done="the concepts have not been reworded yet",
        file="Delta",
        edit="rewording",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CombinedReport:
    """What erases all concepts of the run at once."""

    how: How
    facts: MaskFacts | None
    """None if it is not done."""
    accuracy: Accuracy | None
    strips: tuple[Strip, ...]
    lacking: tuple[str, ...]
    """Concepts that are not in it because their masks or sums are missing."""
    rewording: Mapping[str, float] = field(default_factory=dict)
    """The settings of a rewording, as its file says."""

    @property
    def words(self) -> Words:
        """How to speak of it."""
        return WORDS[self.how]


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
    """Denoiser calls the masks were selected from; None if unknown."""
    own_settings: bool
    """Whether some concept was selected with other settings than those recorded for all."""
    concepts: tuple[ConceptReport, ...]
    failures: tuple[Failure, ...]
    """Failed units that belong to no single concept."""
    blocked: tuple[str, ...] = ()
    """The same of what could not be made for want of something that failed."""
    combined: CombinedReport | None
    """None if the run asks for none."""
    untouched: Accuracy | None
    """Accuracy before pruning, over the images of all concepts, each counted once."""
    scorers: tuple[str, ...]
    """Names of the scorers of the images."""
    cost: Cost
    provenance: Mapping[str, Any]
    """The first mask's provenance: digests and library versions."""
    not_shown: tuple[str, ...] = ()
    """What another version recorded that this one does not know."""

    @property
    def lacking(self) -> tuple[str, ...]:
        """Concepts that the combined checkpoint is without."""
        return self.combined.lacking if self.combined else ()

    @property
    def is_demo(self) -> bool:
        """Whether it is about the studio model, which is no evidence about others."""
        return self.model == LABEL

    def count(self, status: Status) -> int:
        """How many concepts have that status."""
        return sum(concept.status == status for concept in self.concepts)
