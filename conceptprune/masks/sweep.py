"""What many settings would select for a concept, as a table with one row per setting."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from torch import Tensor

from conceptprune.errors import UserError
from conceptprune.manifest import Pruning
from conceptprune.masks.mask import PruningMask
from conceptprune.masks.selectors import Evidence, select_in_layer

KEY = ("concept", "selector", "sparsity", "threshold", "min_per_row", "r1", "r2", "tau")

SCHEMA = pa.schema(
    [
        pa.field("concept", pa.string(), nullable=False),
        pa.field("selector", pa.string(), nullable=False),
        pa.field("sparsity", pa.float64()),
        pa.field("threshold", pa.float64()),
        pa.field("min_per_row", pa.int32()),
        pa.field("r1", pa.float64()),
        pa.field("r2", pa.float64()),
        pa.field("tau", pa.int32(), nullable=False),
        pa.field("entries", pa.int64()),
        pa.field("density", pa.float64()),
        pa.field("shared", pa.int64()),
        pa.field("overlap", pa.float64()),
        pa.field("reference_entries", pa.int64(), nullable=False),
        pa.field("site_weights", pa.int64(), nullable=False),
        pa.field("layers", pa.list_(pa.string()), nullable=False),
        pa.field("layer_entries", pa.list_(pa.int64()), nullable=False),
        pa.field("layer_density", pa.list_(pa.float64()), nullable=False),
        pa.field("error", pa.string()),
    ],
    metadata={"conceptprune.format": "sweep/1", "conceptprune.sorted_by": ",".join(KEY)},
)
"""`shared`: entries also in the reference mask (the manifest's own settings); `overlap`: shared
entries over entries in either mask (Jaccard index); `error`: why a setting selects nothing."""


def sweep_rows(
    weights: Mapping[str, Tensor],
    evidence: Evidence,
    settings: Sequence[Pruning],
    reference: PruningMask,
) -> pa.Table:
    """One row per setting of one selector; layers are selected one by one."""
    entries = np.zeros(len(settings), dtype=np.int64)
    shared = np.zeros(len(settings), dtype=np.int64)
    layers: list[list[tuple[str, int, float]]] = [[] for _ in settings]
    error: str | None = None
    try:
        for name in sorted(weights):
            known = reference.layers[name].entries
            found = select_in_layer(name, weights[name], evidence, settings)
            for index, flat in enumerate(found):
                entries[index] += len(flat)
                shared[index] += len(np.intersect1d(flat, known, assume_unique=True))
                density = len(flat) / weights[name].numel()
                layers[index].append((name, len(flat), density))
    except UserError as problem:
        # If k is too small for a narrow layer, the other settings still get their rows.
        error, layers = str(problem), [[] for _ in settings]
    size, wanted = reference.num_weights, reference.num_entries
    rows = []
    for index, setting in enumerate(settings):
        count, both = int(entries[index]), int(shared[index])
        counted = {
            "entries": count,
            "density": count / size,
            "shared": both,
            "overlap": both / (count + wanted - both),
        }
        row = {
            "concept": reference.concepts[0],
            "selector": setting.selector,
            **setting.selection,
            "tau": setting.tau or evidence.target.num_calls,
            **({} if error else counted),
            "reference_entries": wanted,
            "site_weights": size,
            "layers": [name for name, _, _ in layers[index]],
            "layer_entries": [number for _, number, _ in layers[index]],
            "layer_density": [density for _, _, density in layers[index]],
            "error": error,
        }
        rows.append({name: row.get(name) for name in SCHEMA.names})
    return sorted_rows(pa.Table.from_pylist(rows, schema=SCHEMA))


def sorted_rows(table: pa.Table) -> pa.Table:
    """The rows sorted by concept and setting, as the schema declares."""
    return table.sort_by([(name, "ascending") for name in KEY])
