"""A mask as a table for queries: which neurons lose weights, and at which calls they fire."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

if TYPE_CHECKING:
    from conceptprune.masks.mask import PruningMask

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
how many weights its layer has. `calls` are the denoiser calls at which the concept excites the
neuron more than the base does: only these can have selected its weights.
"""


def neurons_table(
    mask: "PruningMask", key: str, stronger: Mapping[str, NDArray[np.bool_]]
) -> pa.Table:
    """The table of one concept's mask.

    Args:
        mask: the mask of a single concept.
        key: key of the unit that made it.
        stronger: per layer [C, W], for the calls used: whether the concept excites a neuron more
        than the base.
    """
    common = {"concept": mask.concepts[0], "kind": mask.provenance["kind"], "mask": key}
    tables = [_layer_table(name, mask, common, stronger[name]) for name in sorted(mask.layers)]
    return pa.concat_tables(tables)


def _layer_table(
    name: str, mask: "PruningMask", common: Mapping[str, Any], stronger: NDArray[np.bool_]
) -> pa.Table:
    layer = mask.layers[name]
    _, width = layer.shape
    neurons, weights = np.unique(layer.entries % width, return_counts=True)
    columns: dict[str, Any] = {
        **{column: [value] * len(neurons) for column, value in common.items()},
        "layer": [name] * len(neurons),
        "neuron": neurons,
        "weights": weights,
        "layer_weights": [layer.num_weights] * len(neurons),
        "calls": [np.flatnonzero(stronger[:, neuron - layer.first_column]) for neuron in neurons],
    }
    return pa.table(columns, schema=SCHEMA)
