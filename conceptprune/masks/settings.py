"""How skilled weights are selected; light to import."""

from dataclasses import dataclass
from typing import Literal

BaseRule = Literal["plain", "plain+retained-mean", "plain+retained-max"]


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
