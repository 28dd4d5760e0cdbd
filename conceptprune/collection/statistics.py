"""Neuron statistics of one side of a concept: additive sums per denoiser call and layer.

Shapes: C denoiser calls, W input columns ("neurons") of a prunable linear, P prompts.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, reduce
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from conceptprune.digest import canonical_json
from conceptprune.strict_reading import plain_json

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT_VERSION = 1


@cache
def schema() -> "pa.Schema":
    """One row per (layer, call); columns are lists, because widths differ by layer."""
    # Imported here because pyarrow is large, and making masks needs no tables.
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("layer", pa.string(), nullable=False),
            pa.field("call", pa.int32(), nullable=False),
            pa.field("timestep", pa.float64(), nullable=False),
            pa.field("width", pa.int32(), nullable=False),
            pa.field("prompts", pa.int64(), nullable=False),
            pa.field("rows", pa.int64(), nullable=False),
            pa.field("sum_sq", pa.list_(pa.float64()), nullable=False),
            pa.field("sum_norm", pa.list_(pa.float64()), nullable=False),
        ]
    )


def said_of(table: "pa.Table") -> Mapping[str, Any]:
    """What a table of statistics says of its origin.

    Raises:
        ValueError: it is no JSON object.
    """
    said = plain_json((table.schema.metadata or {}).get(b"conceptprune.provenance", b"{}"))
    if not isinstance(said, dict):
        raise ValueError("a statistics table that does not say of what it is")
    return said


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerStatistics:
    """Sums over the prompts of one layer's unit-normalised input rows, for each denoiser call.

    With `ss_p[j]` the sum over tokens (and guidance branches) of the squared, row-normalised
    activation of neuron j under prompt p:
    """

    sum_sq: NDArray[np.float64]
    """[C, W] float64: sum over prompts of `ss_p`; its root is ConceptPrune's norm."""
    sum_norm: NDArray[np.float64]
    """[C, W] float64: sum over prompts of `sqrt(ss_p)`; with `sum_sq`, gives mean and variance."""
    num_rows: int
    """Number of token rows summed at each call, over all prompts and guidance branches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Statistics of one set of prompts over denoiser calls `first_call .. first_call + C - 1`."""

    first_call: int
    timesteps: tuple[float, ...]
    """The scheduler's timestep at each call; not unique, since PNDM repeats a timestep."""
    num_prompts: int
    layers: Mapping[str, LayerStatistics]

    @property
    def num_calls(self) -> int:
        """C, the number of denoiser calls covered."""
        return len(self.timesteps)

    def merge(self, other: "Statistics") -> "Statistics":
        """The sum of both prompt sets' statistics, over the same calls and layers.

        Raises:
            ValueError: the calls or the layers differ.
        """
        if (self.first_call, self.timesteps) != (other.first_call, other.timesteps):
            raise ValueError("only statistics of the same denoiser calls can be merged")
        if self.layers.keys() != other.layers.keys():
            raise ValueError("only statistics of the same layers can be merged")
        layers = {
            name: LayerStatistics(
                sum_sq=mine.sum_sq + other.layers[name].sum_sq,
                sum_norm=mine.sum_norm + other.layers[name].sum_norm,
                num_rows=mine.num_rows + other.layers[name].num_rows,
            )
            for name, mine in self.layers.items()
        }
        return Statistics(
            first_call=self.first_call,
            timesteps=self.timesteps,
            num_prompts=self.num_prompts + other.num_prompts,
            layers=layers,
        )

    def padded(self, widths: Mapping[str, int]) -> "Statistics":
        """A copy with zero columns before a layer's own, up to `widths` columns by layer."""
        layers = {}
        for name, layer in self.layers.items():
            before = ((0, 0), (widths[name] - layer.sum_sq.shape[1], 0))
            layers[name] = LayerStatistics(
                sum_sq=np.pad(layer.sum_sq, before),
                sum_norm=np.pad(layer.sum_norm, before),
                num_rows=layer.num_rows,
            )
        return replace(self, layers=layers)

    def energy(self, tau: int | None = None) -> dict[str, NDArray[np.float64]]:
        """Per layer, `sum_sq` of the first `tau` calls: [tau, W] float64."""
        return {name: layer.sum_sq[:tau] for name, layer in self.layers.items()}

    def at_call(self, call: int) -> "Statistics":
        """The statistics of one denoiser call.

        Raises:
            ValueError: the call is not covered.
        """
        index = call - self.first_call
        if not 0 <= index < self.num_calls:
            raise ValueError(f"call {call} is not among these statistics' calls")
        layers = {
            name: replace(
                layer,
                sum_sq=layer.sum_sq[index : index + 1],
                sum_norm=layer.sum_norm[index : index + 1],
            )
            for name, layer in self.layers.items()
        }
        return replace(
            self, first_call=call, timesteps=self.timesteps[index : index + 1], layers=layers
        )

    def to_arrow(self, provenance: Mapping[str, Any] | None = None) -> "pa.Table":
        """A table with rows sorted by (layer, call); `provenance` goes into its metadata."""
        import pyarrow as pa

        columns: dict[str, list[Any]] = {field.name: [] for field in schema()}
        for name in sorted(self.layers):
            layer = self.layers[name]
            for index, timestep in enumerate(self.timesteps):
                columns["layer"].append(name)
                columns["call"].append(self.first_call + index)
                columns["timestep"].append(timestep)
                columns["width"].append(layer.sum_sq.shape[1])
                columns["prompts"].append(self.num_prompts)
                columns["rows"].append(layer.num_rows)
                columns["sum_sq"].append(layer.sum_sq[index])
                columns["sum_norm"].append(layer.sum_norm[index])
        metadata = {
            "conceptprune.format": f"statistics/{FORMAT_VERSION}",
            "conceptprune.sorted_by": "layer,call",
            "conceptprune.provenance": canonical_json(dict(provenance or {})),
        }
        return pa.table(columns, schema=schema().with_metadata(metadata))

    @classmethod
    def from_arrow(cls, table: "pa.Table") -> "Statistics":
        """The inverse of `to_arrow`.

        Raises:
            ValueError: the table is not a complete grid of layers x calls in this format.
        """
        declared = (table.schema.metadata or {}).get(b"conceptprune.format", b"?").decode()
        if declared != f"statistics/{FORMAT_VERSION}" or not table.schema.equals(schema()):
            raise ValueError(f"not a statistics table of format {FORMAT_VERSION}: {declared}")
        names = table["layer"].to_pylist()
        order = sorted(set(names))
        num_calls = len(names) // max(1, len(order))
        if not order or names != [name for name in order for _ in range(num_calls)]:
            raise ValueError("statistics table is not a complete grid of layers and calls")
        calls = table["call"].to_pylist()[:num_calls]
        timesteps = table["timestep"].to_pylist()[:num_calls]
        prompts = table["prompts"][0].as_py()
        for column, values in (("call", calls), ("timestep", timesteps)):
            if table[column].to_pylist() != values * len(order):
                raise ValueError(f"a statistics table whose layers differ in their {column}s")
        if calls != list(range(calls[0], calls[0] + num_calls)):
            raise ValueError("a statistics table whose calls do not follow each other")
        if not prompts or set(table["prompts"].to_pylist()) != {prompts}:
            raise ValueError("a statistics table without a number of prompts for all of its rows")
        layers = {}
        for index, name in enumerate(order):
            part = table.slice(index * num_calls, num_calls)
            layers[name] = LayerStatistics(
                sum_sq=_matrix(part, "sum_sq"),
                sum_norm=_matrix(part, "sum_norm"),
                num_rows=part["rows"][0].as_py(),
            )
        return cls(
            first_call=calls[0],
            timesteps=tuple(timesteps),
            num_prompts=prompts,
            layers=layers,
        )


def _matrix(part: "pa.Table", name: str) -> NDArray[np.float64]:
    """One column of a layer's rows, as [C, W]; a ValueError unless all lists are of one width."""
    column = part[name].combine_chunks()
    widths = set(part["width"].to_pylist()) | set(column.value_lengths().to_pylist())
    if len(widths) != 1:
        raise ValueError(f"a statistics table whose lists {name} are not of one width")
    flat: NDArray[np.float64] = column.flatten().to_numpy(zero_copy_only=False)
    if not np.isfinite(flat).all():
        raise ValueError(f"a statistics table with a {name} that is not finite")
    return flat.reshape(part.num_rows, -1)


def join_calls(windows: Sequence[Statistics]) -> Statistics:
    """Join consecutive windows of calls of the same prompts; no arithmetic is done.

    Raises:
        ValueError: the windows leave a gap, overlap, or have different prompts or layers.
    """
    ordered = sorted(windows, key=lambda window: window.first_call)
    first = ordered[0]
    expected = first.first_call
    for window in ordered:
        if window.first_call != expected:
            raise ValueError(
                f"windows do not join: call {expected} wanted, {window.first_call} found"
            )
        if window.num_prompts != first.num_prompts or window.layers.keys() != first.layers.keys():
            raise ValueError("only windows of the same prompts and layers can be joined")
        expected += window.num_calls
    layers = {
        name: LayerStatistics(
            sum_sq=np.concatenate([window.layers[name].sum_sq for window in ordered]),
            sum_norm=np.concatenate([window.layers[name].sum_norm for window in ordered]),
            num_rows=first.layers[name].num_rows,
        )
        for name in first.layers
    }
    return Statistics(
        first_call=first.first_call,
        timesteps=tuple(t for window in ordered for t in window.timesteps),
        num_prompts=first.num_prompts,
        layers=layers,
    )


def merge_shards(shards: Iterable[Statistics]) -> Statistics:
    """Sum the shards in the given order; callers pass the canonical order, for equal bytes."""
    return reduce(Statistics.merge, shards)
