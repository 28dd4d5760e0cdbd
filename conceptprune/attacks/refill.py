"""The attack on pruning itself: refill the zeroed entries, using only the checkpoint.

Pruned weights are exact zeros, which trained weights hardly ever are. So the pruned entries are
easy to find, and they show which neurons generate the concept (after Zhang et al., arXiv
2603.06640, who revive concepts from the entries without data or training; the fills here are our
own). An attacker with the base model does not need this: the difference of the two files is the
mask.

R rows (outputs) and W columns (neurons) of one weight.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from conceptprune.attacks.attempts import Attempt, Scene
from conceptprune.evaluation.attack_settings import Refill
from conceptprune.models.base import DiffusionModel

Weights = Mapping[str, Tensor]
"""Weights of linears [R, W], by layer."""
Entries = NDArray[np.int64]
"""Sorted flat indices `row * columns + column`."""


Fill = Callable[[Tensor, Entries, Refill, np.random.Generator], Tensor]
"""From a weight [R, W] float64, its entries to fill and the settings to the filled weight."""


def zero_places(weights: Weights) -> dict[str, Entries]:
    """The exact zeros of each weight."""
    return {
        name: np.flatnonzero(weight.cpu().numpy().ravel() == 0) for name, weight in weights.items()
    }


def suspect_places(weights: Weights, settings: Refill) -> dict[str, Entries]:
    """All entries of the neurons whose columns have the smallest norms: pruning took the largest.

    For checkpoints without zeros, whose pruned entries were sealed.
    """
    found = {}
    for name, weight in weights.items():
        columns = weight.shape[1]
        order = np.argsort(weight.double().cpu().norm(dim=0).numpy(), kind="stable")
        weakest = order[: int(settings.suspects * columns)]
        found[name] = np.flatnonzero(np.isin(np.arange(weight.numel()) % columns, weakest))
    return found


def refilled(
    weights: Weights, places: Mapping[str, Entries], fill: Fill, settings: Refill
) -> dict[str, Tensor]:
    """The weights with filled entries, in float64.

    Layers without entries to fill, or with nothing left to learn from, are left out.
    """
    rng = np.random.default_rng(settings.seed)
    return {
        name: fill(weight.double().cpu(), places[name], settings, rng)
        for name, weight in sorted(weights.items())
        if 0 < len(places[name]) < weight.numel()
    }


def fill_random(
    weight: Tensor, places: Entries, settings: Refill, rng: np.random.Generator
) -> Tensor:
    """Random samples from the layer's other entries."""
    flat = weight.flatten().clone()
    others = np.delete(np.arange(flat.numel()), places)
    flat[places] = flat[rng.choice(others, len(places))]
    return flat.view_as(weight)


def fill_statistics(
    weight: Tensor, places: Entries, settings: Refill, rng: np.random.Generator
) -> Tensor:
    """Row mean + column mean - layer mean of the other entries."""
    known = _known(weight, places)
    weight = weight * known
    layer = weight.sum() / known.sum()
    row = weight.sum(1, keepdim=True) / known.sum(1, keepdim=True).clamp(min=1)
    column = weight.sum(0, keepdim=True) / known.sum(0, keepdim=True).clamp(min=1)
    return torch.where(known, weight, row + column - layer)


def fill_low_rank(
    weight: Tensor, places: Entries, settings: Refill, rng: np.random.Generator
) -> Tensor:
    """Low-rank completion from the other entries: impute, truncate the SVD, repeat.

    Hard-thresholded SVD imputation (Mazumder, Hastie and Tibshirani 2010, with a fixed rank).
    """
    known = _known(weight, places)
    weight = guess = weight * known
    for _ in range(settings.rounds):
        guess = torch.where(known, weight, near_low_rank(guess, settings.rank))
    return torch.where(known, weight, guess)


def fill_signs(
    weight: Tensor, places: Entries, settings: Refill, rng: np.random.Generator
) -> Tensor:
    """The completion's signs, with the magnitude that a pruned entry must have had.

    Pruning takes the largest entries of a row, so a pruned entry was about as large as the largest
    one left in its row; that magnitude is used.
    """
    known = _known(weight, places)
    signs = fill_low_rank(weight, places, settings, rng).sign()
    largest = (weight * known).abs().amax(1, keepdim=True)
    return torch.where(known, weight, signs * largest)


def fill_amplify(
    weight: Tensor, places: Entries, settings: Refill, rng: np.random.Generator
) -> Tensor:
    """Fill nothing, but make the rest of a pruned neuron as strong as the layer's other neurons.

    A column that lost entries is scaled up to the median norm of the columns that lost none.
    """
    known = _known(weight, places)
    hit = ~known.all(0)
    norms = weight.norm(dim=0)
    usual = norms[~hit].median() if (~hit).any() else norms.max()
    scale = torch.where(hit & (norms > 0), usual / norms.clamp(min=1e-12), 1.0)
    return weight * scale


FILLS: Mapping[str, Fill] = {
    "random": fill_random,
    "statistics": fill_statistics,
    "low-rank": fill_low_rank,
    "signs": fill_signs,
    "amplify": fill_amplify,
}


def refill(fill: Fill, scene: Scene, settings: Refill) -> list[Attempt]:
    """Fill the pruned entries; try each asked prompt, once per gain, until the concept shows.

    A gain scales how far the fill moves the weights. If there is nothing to fill, images are
    generated with the unchanged checkpoint.
    """
    linears = scene.model.site_linears(settings.sites)
    weights = {name: each.linear.weight.detach() for name, each in linears.items()}
    places = zero_places(weights)
    if settings.suspects and not any(map(len, places.values())):
        places = suspect_places(weights, settings)
    filled = refilled(weights, places, fill, settings)
    before = {name: weights[name].double().cpu() for name in filled}
    images = np.zeros(len(scene.asked), np.int64)
    success = np.zeros(len(scene.asked), np.bool_)
    for gain in settings.gains if filled else (1.0,):
        moved = {name: before[name] + gain * (filled[name] - before[name]) for name in filled}
        left = np.flatnonzero(~success)
        if len(left):
            with replaced(scene.model, settings.sites, moved):
                success[left] = scene.generate([scene.asked[i] for i in left], left.tolist())
            images[left] += 1
    return [
        Attempt(
            asked=asked.text,
            prompt=asked.text,
            seed=asked.seed,
            success=bool(success[index]),
            images=int(images[index]),
            steps=0,
        )
        for index, asked in enumerate(scene.asked)
    ]


@contextmanager
def replaced(model: DiffusionModel, sites: tuple[str, ...], weights: Weights) -> Iterator[None]:
    """Inside the context, the model's linears have these weights."""
    linears = {name: each.linear for name, each in model.site_linears(sites).items()}
    before = {name: linears[name].weight.detach().clone() for name in weights}
    model.forget_encodings()
    try:
        for name, weight in weights.items():
            linears[name].weight.detach().copy_(weight)
        yield
    finally:
        for name, weight in before.items():
            linears[name].weight.detach().copy_(weight)
        model.forget_encodings()


def _known(weight: Tensor, places: Entries) -> Tensor:
    known = torch.ones(weight.numel(), dtype=torch.bool)
    known[places] = False
    return known.view_as(weight)


def near_low_rank(weight: Tensor, rank: int) -> Tensor:
    """The nearest weight [R, W] of that rank."""
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    near: Tensor = (left[:, :rank] * values[:rank]) @ right[:rank]
    return near
