"""Where a mask's weights sit: by layer, and by the denoiser calls that may have selected them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from conceptprune.collection.statistics import Statistics
from conceptprune.masks.mask import PruningMask


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRow:
    """One layer of the heat map; shares are of the layer's weights."""

    name: str
    label: str
    pruned: float
    by_call: tuple[float, ...]
    """For each call: pruned weights whose neuron the concept excites more than the base."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatMap:
    """Layers by calls; without calls if the statistics are no longer in the store."""

    timesteps: tuple[float, ...]
    rows: tuple[LayerRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """Per layer [C, W]: whether a call excites a neuron more with the concept than without."""

    timesteps: tuple[float, ...]
    stronger: Mapping[str, NDArray[np.bool_]]


def heat_map(mask: PruningMask, contrast: Contrast | None) -> HeatMap:
    """The map of a mask.

    A call can select a weight only if the concept excites its neuron more than the base does at
    that call. So a cell shows what the call may have selected of the final mask; the exact answer
    would need the model's weights, which a report does not otherwise need.
    """
    rows = []
    labels = short_names(mask.layers)
    for name, layer in mask.layers.items():
        _, width = layer.shape
        size = layer.num_weights
        by_call: tuple[float, ...] = ()
        if contrast:
            per_neuron = np.bincount(layer.entries % width, minlength=width)[layer.first_column :]
            calls = contrast.stronger[name][: len(contrast.timesteps)]
            by_call = tuple(float(share) for share in calls @ per_neuron / size)
        rows.append(
            LayerRow(
                name=name,
                label=labels[name],
                pruned=len(layer.entries) / size,
                by_call=by_call,
            )
        )
    return HeatMap(timesteps=contrast.timesteps if contrast else (), rows=tuple(rows))


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Module names without their common ending: `down_blocks.0.attentions.1...` is "down 0.1"."""
    parts = {name: name.split(".") for name in names}
    common = 0
    while all(len(part) > common + 1 for part in parts.values()) and (
        len({part[-common - 1] for part in parts.values()}) == 1
    ):
        common += 1
    short = {name: _short(part[: len(part) - common]) for name, part in parts.items()}
    return short if len(set(short.values())) == len(short) else {name: name for name in parts}


def _short(parts: list[str]) -> str:
    numbers = ".".join(part for part in parts[1:] if part.isdigit())
    return f"{parts[0].removesuffix('_blocks').removesuffix('_block')} {numbers}".strip()


def fits(side: Statistics, mask: PruningMask, num_calls: int) -> bool:
    """Whether statistics are of so many calls, and of the layers and columns that a mask prunes."""
    widths = {name: layer.sum_sq.shape[1] for name, layer in side.layers.items()}
    return side.num_calls == num_calls and widths == {
        name: layer.shape[1] - layer.first_column for name, layer in mask.layers.items()
    }
