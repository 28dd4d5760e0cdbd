"""Numbers that a model card shows: what was measured of a checkpoint beside its base model."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A share of `n` images, with its 95 % interval; each from 0 to 1."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        shares = f"{100 * self.value:.0f} % ({100 * self.low:.0f}-{100 * self.high:.0f})"
        return f"{shares} of {self.n}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What was recognised in pictures of the base model and of this checkpoint."""

    label: str
    prompts: str
    """Which prompts, in words."""
    want: Literal["low", "high"]
    before: Share | None
    after: Share | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number of `n` images, with its 95 % interval where it has one."""

    value: float
    low: float | None
    high: float | None
    n: int

    def __str__(self) -> str:
        known = self.low is not None and self.high is not None
        interval = f" ({self.low:.3g} to {self.high:.3g})" if known else ""
        return f"{self.value:.3g}{interval} of {self.n}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One number of a suite's group, of the base model and of this checkpoint."""

    suite: str
    group: str
    scorer: str
    metric: str
    better: str
    """"lower", "higher", or empty where neither is."""
    base: Estimate | None
    checkpoint: Estimate
