"""One mask file, pinned to the byte: a change of the method, of its order or of the format shows.

Weights and the roots of energies are whole numbers, and no two scores of a row are equal, so that
every machine selects the same.
"""

import numpy as np
import torch

from conceptprune.collection.statistics import LayerStatistics, Statistics
from conceptprune.digest import digest_bytes
from conceptprune.manifest import Pruning
from conceptprune.masks.mask import PruningMask
from conceptprune.masks.selectors import Evidence, NamedSelector, select_mask

ROWS, COLUMNS, CALLS = 3, 8, 2
ENTRIES = {"ff.0": [4, 5, 6, 9, 10, 11, 12, 17, 18, 19], "ff.1": [4, 5, 9, 10, 18, 19, 20, 21]}
SHA256 = "e2f68796b82bab58915440383a4060938037f23f67649d93980d11c0a6c8031d"


def side(shift: int) -> Statistics:
    """Energies [calls, columns], each neuron's highest where the numbers wrap round."""
    numbers = np.arange(CALLS * COLUMNS, dtype=np.float64).reshape(CALLS, COLUMNS)
    layers = {
        f"ff.{index}": LayerStatistics(
            sum_sq=((numbers + shift) * (5 + 2 * index) % 16 + 1) ** 2,
            sum_norm=(numbers + shift) * (5 + 2 * index) % 16 + 1,
            num_rows=4,
        )
        for index in range(2)
    }
    return Statistics(first_call=0, timesteps=(981.0, 961.0), num_prompts=2, layers=layers)


def small_mask() -> PruningMask:
    numbers = torch.arange(ROWS * COLUMNS, dtype=torch.float32).reshape(ROWS, COLUMNS)
    return select_mask(
        {f"ff.{index}": numbers * (5, 3)[index] % 32 + 1 for index in range(2)},
        Evidence(target=side(0), base=side(3)),
        NamedSelector(settings=Pruning(sparsity=0.25)),
        concept="Ada Bell",
        component="unet",
        provenance={"model": "small", "seed": 0, "site": "ffn_out"},
    )


def test_the_entries_of_a_small_mask_are_these() -> None:
    found = {name: layer.entries.tolist() for name, layer in small_mask().layers.items()}
    assert found == ENTRIES


def test_the_file_of_a_small_mask_has_these_bytes() -> None:
    assert digest_bytes(small_mask().to_bytes()) == SHA256
