"""Estimate the bytes that units write from shapes; each unit kind uses what applies to it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

from conceptprune.units.unit import Unit

# Approximate size of a file's metadata.
TABLE_BYTES = 4096
TABLE_ROW_BYTES = 64
HEADER_BYTES = 2048
HEADER_LAYER_BYTES = 400

GENERATOR_BYTES = 5056
"""State of a torch CPU generator, one per prompt."""
LATENTS_KEPT = 7
"""The most latents that a window passes on: PNDM also keeps a sample and five predictions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Shapes of a model and its pruned layers; masks and states are estimated at their largest."""

    shapes: Mapping[str, tuple[int, int]]
    """(rows, columns) of the site's linears, by module name."""
    item_bytes: int
    """Bytes of a weight or latent in the collection's dtype."""
    latent_numbers: int
    image_bytes: int
    edited_bytes: int
    """Bytes of a pipeline folder's files with pruned weights; one copy per checkpoint."""
    prompt_width: int = 0
    """Width of the encoded prompt at cross-attention's keys and values; 0 if there are none."""
    prompt_weights: int = 0
    """Number of their weights."""
    same_bytes: int
    """Bytes of the other files, which all checkpoints share."""

    @property
    def num_weights(self) -> int:
        """Number of weights of the site."""
        return sum(map(prod, self.shapes.values()))

    def table(self, num_rows: int, row_bytes: int = 0) -> int:
        """A Parquet table whose rows hold `row_bytes` each besides a few numbers."""
        return TABLE_BYTES + num_rows * (TABLE_ROW_BYTES + row_bytes)

    def second_moments(self, squares: int) -> int:
        """Squares of the encoded prompt's width, in float64."""
        return HEADER_BYTES + 8 * squares * self.prompt_width**2

    def prompt_delta(self) -> int:
        """All of the weights that see the encoded prompt."""
        return self.item_bytes * self.prompt_weights + HEADER_BYTES

    def statistics(self, num_calls: int) -> int:
        """Statistics of all layers over `num_calls` denoiser calls."""
        numbers = 2 * num_calls * sum(columns for _, columns in self.shapes.values())
        return 8 * numbers + self.table(num_calls * len(self.shapes))

    def states(self, num_prompts: int) -> int:
        """The states that a window of calls passes on to the next."""
        return num_prompts * (
            GENERATOR_BYTES + LATENTS_KEPT * self.item_bytes * self.latent_numbers
        )

    def mask(self, num_entries: int) -> int:
        """One byte per entry and per gap of 255: usually 1.01 to 1.05 bytes per entry."""
        return min(num_entries, self.num_weights) + self.num_weights // 255 + self._header

    def delta(self) -> int:
        """All of the site's weights."""
        return self.item_bytes * self.num_weights + self._header

    def sweep(self, num_settings: int) -> int:
        """The rows of one concept for `num_settings` settings."""
        return TABLE_BYTES + num_settings * TABLE_ROW_BYTES * (2 + len(self.shapes))

    def total(self, units: Iterable[Unit], known: Mapping[str, Unit]) -> int:
        """Bytes that `units` write; `known` are the plan's units by key."""
        written = 0
        shared: dict[str, int] = {}
        for unit in units:
            written += unit.bytes_written(self, known)
            shared[unit.kind] = max(shared.get(unit.kind, 0), unit.bytes_shared(self))
        return written + sum(shared.values())

    @property
    def _header(self) -> int:
        return HEADER_BYTES + HEADER_LAYER_BYTES * len(self.shapes)
