"""Masks that know nothing of the concept: what an erasure must do better than.

As many weights of each layer as a mask takes, or a share of each, chosen at random or by magnitude.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from conceptprune.errors import EmptyMaskError, UserError
from conceptprune.masks.layer_mask import LayerMask, widened
from conceptprune.masks.mask import PruningMask

Entries = NDArray[np.int64]
Choose = Callable[[Tensor, int], Entries]
"""(weight [R, W], count) -> so many sorted flat indices."""


def unpruned(weights: Mapping[str, Tensor], columns: Mapping[str, int]) -> dict[str, LayerMask]:
    """Layers that lose nothing yet, by layer name; `columns` are the first ones of the site."""
    return {
        name: LayerMask.of(weight, np.empty(0, dtype=np.int64), columns[name])
        for name, weight in sorted(weights.items())
    }


def counts_of_share(layers: Mapping[str, LayerMask], density: float) -> dict[str, int]:
    """How many weights each layer loses so that `density` of it is gone, to the nearest weight.

    Raises:
        UserError: a density that is not above 0 and at most 1.
        EmptyMaskError: that is no weight of any layer.
    """
    if not 0 < density <= 1:
        raise UserError(f"--density {density:g}: must be a number above 0 and at most 1")
    counts = {name: round(density * layer.num_weights) for name, layer in layers.items()}
    if not any(counts.values()):
        raise EmptyMaskError(f"--density {density:g}: is less than one weight of every layer")
    return counts


def counts_like(layers: Mapping[str, LayerMask], like: PruningMask) -> dict[str, int]:
    """How many weights a mask takes of each layer.

    Raises:
        UserError: it is a mask of other layers or other weights.
    """
    for name, layer in like.layers.items():
        if name not in layers or not layer.same_weight(layers[name]):
            raise UserError(f"--like: was made for another model or site, by its layer {name}")
    return {name: len(like.layers[name].entries) if name in like.layers else 0 for name in layers}


def control_mask(
    weights: Mapping[str, Tensor], like: PruningMask, counts: Mapping[str, int], choose: Choose
) -> PruningMask:
    """`like` with the entries that `choose` picks from each layer, in the order of layer names."""
    layers = {}
    for name, layer in sorted(like.layers.items()):
        site = weights[name][:, layer.first_column :]
        entries = widened(choose(site, counts[name]), layer.shape[1], layer.first_column)
        layers[name] = replace(layer, entries=entries)
    return replace(like, layers=layers)


def at_random(seed: int) -> Choose:
    """Any weights, all equally likely; `seed` decides all layers' together."""
    generator = np.random.default_rng(seed)

    def choose(weight: Tensor, count: int) -> Entries:
        return np.sort(generator.choice(weight.numel(), count, replace=False))

    return choose


def by_magnitude(*, smallest: bool = False) -> Choose:
    """The largest weights, or with `smallest` the smallest; of equal ones the first."""

    def choose(weight: Tensor, count: int) -> Entries:
        magnitude = weight.detach().cpu().float().abs().flatten()
        order = magnitude.sort(descending=not smallest, stable=True).indices
        return np.sort(order[:count].numpy())

    return choose
