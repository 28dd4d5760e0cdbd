"""What decides how statistics are collected and weights selected; light to import."""

from dataclasses import dataclass
from typing import Literal

Offload = Literal["none", "encoders", "model", "sequential"]
"""What leaves the device, in order of less memory and more time:

- `none`: nothing does;
- `encoders`: text encoders are freed when the prompts at hand are encoded, before denoising starts,
  and loaded again (memory-mapped) when there are prompts that have not been encoded;
- `model`: also, the denoiser is on the host while they encode;
- `sequential`: also, the denoiser's layers are on the device only while they run.
"""

BaseRule = Literal["plain", "plain+retained-mean", "plain+retained-max"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionSettings:
    """How statistics are collected; the defaults are the paper's."""

    steps: int = 50
    tau: int = 10
    """Only the first so many denoiser calls are run."""
    guidance: float = 7.5
    halves: Literal["both", "conditional"] = "both"
    """Which guidance halves are summed (both are always run)."""
    batch_size: int = 8
    site: str | tuple[str, ...] = "ffn_out"
    """One site or several, all from the same forward passes."""

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites' names."""
        return (self.site,) if isinstance(self.site, str) else self.site


@dataclass(frozen=True, slots=True)
class Window:
    """Denoiser calls `start` (included) to `stop` (excluded)."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionSettings:
    """How skilled weights are chosen; the defaults are the paper's."""

    sparsity: float = 0.01
    """k: the fraction of each row's columns that a single call may select, in (0, 1]."""
    tau: int | None = None
    """Use the first so many of the collected calls; None uses all."""
    threshold: float = 0.0
    """An entry is pruned when more than `threshold * tau` calls select it; 0 is a plain union."""
    min_per_row: int = 0
    """Select at least so many columns a row where k of a narrow layer rounds down to none."""

    def columns_per_row(self, width: int) -> int:
        """How many of a row's `width` columns a single call may select; 0 where k is too small."""
        return min(max(int(self.sparsity * width), self.min_per_row), width)

    def most_entries(self, num_rows: int, width: int, num_calls: int) -> int:
        """The most entries a layer can lose: all that no two calls select together."""
        calls_needed = int(self.threshold * num_calls) + 1
        return num_rows * min(self.columns_per_row(width) * num_calls // calls_needed, width)
