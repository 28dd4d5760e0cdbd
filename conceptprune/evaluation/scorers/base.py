"""The interface of scorers: input, output and declarations; light to import."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from conceptprune.manifest.fields import Section
from conceptprune.manifest.outputs import SCORER_PLACES
from conceptprune.models.images import Image

Group = Literal["erased", "retained", "general"]
Better = Literal["lower", "higher", ""]
Domain = Literal["style", "object"]
Labels = tuple[tuple[str, str], ...]
"""What an image should show: (domain, label), sorted by domain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One image to score: the prompt it was generated from, and what it should show."""

    text: str
    seed: int
    labels: Labels = ()

    def label(self, domain: str) -> str | None:
        """Its label in a domain, if it has one."""
        return dict(self.labels).get(domain)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One number that a scorer gives per image, and how to read it."""

    erased: Better = ""
    """Which direction is better if the concept should be gone; an accuracy's domain decides it."""
    kept: Better = ""
    """Which direction is better if nothing should have changed."""
    domain: Domain | None = None
    """The domain it is an accuracy in (UnlearnCanvas' groupings are made of these)."""
    is_share: bool = False
    """Whether its mean is a share of the images: from 0 to 1, shown as per cent."""

    def better(self, group: str, erased: Domain | None) -> Better:
        """Which direction is better in a group; `erased` is the domain of what is erased."""
        if group != "erased" or self.domain is None:
            return self.erased if group == "erased" else self.kept
        if erased is None:
            return ""
        # What is erased should not be seen; in the other domain, everything should stay.
        return "lower" if self.domain == erased else "higher"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A scorer's value for one image and metric."""

    case: int
    """The image's index among those that were scored."""
    metric: str
    value: float | None
    """None if it cannot be determined."""
    seen: str | None = None
    """What the scorer saw, in its own words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What decides a scorer's numbers besides its settings."""

    versions: Mapping[str, str]
    """Versions of the libraries that it uses."""
    weights: str | None = None
    """SHA-256 of the weights it uses."""


PLACES = SCORER_PLACES
"""Settings that name files; `Facts.weights` is the digest of their content."""


class Scorer(Protocol):
    """Scores images one by one; built once per worker."""

    def score(
        self, images: Sequence[Image], cases: Sequence[Case], references: Sequence[Image] | None
    ) -> list[Reading]:
        """Readings of all images; `references` are the base model's images of the same cases."""


class SetScorer(Protocol):
    """Scores a set of images against another; built once per worker."""

    def score_sets(
        self, images: Iterable[Image], references: Iterable[Image]
    ) -> "Mapping[str, SetReading]":
        """The whole set's numbers by metric; the images are read one after another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetReading:
    """A number of a whole set, with its 95 % interval."""

    value: float
    low: float
    high: float


class ScorerSettings(Section, ABC):
    """Base of every scorer's settings in a suite; each subclass is in the file of its scorer."""

    @property
    def title(self) -> str:
        """The name under which its numbers are reported."""
        name: str = getattr(self, "name", None) or getattr(self, "scorer")  # noqa: B009
        return name

    @property
    @abstractmethod
    def metrics(self) -> Mapping[str, Metric]:
        """Its metrics by name."""

    @property
    def compares(self) -> bool:
        """Whether it needs the base model's image for each image."""
        return False

    @property
    def of_sets(self) -> bool:
        """Whether its numbers describe whole sets of images."""
        return False

    @abstractmethod
    def check(self) -> Facts:
        """Check that it can run here; called before any work.

        Raises:
            UserError: a package or its weights are missing; the message says how to get them.
        """

    @abstractmethod
    def load(self, device: str) -> Any:
        """The scorer itself, a `Scorer` or a `SetScorer`, with its weights on `device`."""
