"""A mask as a table for queries: which neurons lose weights, and the calls that speak for it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from conceptprune.mask import PruningMask
    from conceptprune.select import Energy

FORMAT = "neurons/1"

SCHEMA = pa.schema(
    [
        pa.field("concept", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("mask", pa.string(), nullable=False),
        pa.field("layer", pa.string(), nullable=False),
        pa.field("neuron", pa.int32(), nullable=False),
        pa.field("weights", pa.int32(), nullable=False),
        pa.field("layer_weights", pa.int64(), nullable=False),
        pa.field("calls", pa.list_(pa.int32()), nullable=False),
    ],
    metadata={"conceptprune.format": FORMAT, "conceptprune.sorted_by": "layer,neuron"},
)
"""One row per neuron (input column of a layer) that loses weights.

`mask` is the key of the mask's unit, `weights` how many weights the neuron loses, `layer_weights`
how many its layer has. `calls` are the denoiser calls at which the concept excites the neuron more
than the base does: the only ones that can have selected its weights.
"""


def neurons_table(mask: "PruningMask", key: str, *, target: "Energy", base: "Energy") -> pa.Table:
    """The table of one concept's mask; energies are [C, W] per layer, of the calls selected from.

    Args:
        mask: the mask of a single concept.
        key: of the unit that made it.
        target: the concept's energies.
        base: what they had to exceed.
    """
    common = {"concept": mask.concepts[0], "kind": mask.provenance["kind"], "mask": key}
    tables = [
        _layer_table(name, mask, common, target[name] > base[name]) for name in sorted(mask.layers)
    ]
    return pa.concat_tables(tables)


def _layer_table(
    name: str, mask: "PruningMask", common: Mapping[str, Any], stronger: np.ndarray[Any, Any]
) -> pa.Table:
    layer = mask.layers[name]
    num_rows, width = layer.shape
    neurons, weights = np.unique(layer.entries % width, return_counts=True)
    columns: dict[str, Any] = {
        **{column: [value] * len(neurons) for column, value in common.items()},
        "layer": [name] * len(neurons),
        "neuron": neurons,
        "weights": weights,
        "layer_weights": [num_rows * width] * len(neurons),
        "calls": [np.flatnonzero(stronger[:, neuron]) for neuron in neurons],
    }
    return pa.table(columns, schema=SCHEMA)
