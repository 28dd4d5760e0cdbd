"""Controls take exactly as much as they are told, from the site alone, and always the same."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from conceptprune.baselines.controls import (
    Choose,
    at_random,
    by_magnitude,
    control_mask,
    counts_like,
    counts_of_share,
    unpruned,
)
from conceptprune.errors import EmptyMaskError, UserError
from conceptprune.masks.mask import PruningMask

SHAPES = {"a": (10, 20), "b": (30, 40)}
FIRST_COLUMN = {"a": 0, "b": 30}
SITE_WEIGHTS = {"a": 200, "b": 300}


@pytest.fixture
def weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


@pytest.fixture
def empty(weights: dict[str, Tensor]) -> PruningMask:
    layers = unpruned(weights, FIRST_COLUMN)
    return PruningMask(concepts=("x",), component="unet", layers=layers, provenance={})


CHOICES = pytest.mark.parametrize(
    "choose",
    [lambda: at_random(1), by_magnitude, lambda: by_magnitude(smallest=True)],
    ids=["random", "largest", "smallest"],
)


@CHOICES
@pytest.mark.parametrize("density", [0.01, 0.37, 1.0])
def test_each_layer_loses_exactly_its_share_of_the_site(
    choose: type[Choose], density: float, weights: dict[str, Tensor], empty: PruningMask
) -> None:
    mask = control_mask(weights, empty, counts_of_share(empty.layers, density), choose())
    for name, layer in mask.layers.items():
        assert len(np.unique(layer.entries)) == round(density * SITE_WEIGHTS[name])
        assert (layer.entries % layer.shape[1] >= FIRST_COLUMN[name]).all()
        assert (np.diff(layer.entries) > 0).all()
    assert mask.density == pytest.approx(density, abs=1 / 500)


@CHOICES
def test_as_many_weights_of_each_layer_as_a_mask_takes(
    choose: type[Choose], weights: dict[str, Tensor], empty: PruningMask
) -> None:
    layers = {**empty.layers, "a": replace(empty.layers["a"], entries=np.array([3, 5, 199]))}
    like = replace(empty, layers=layers)
    mask = control_mask(weights, empty, counts_like(empty.layers, like), choose())
    assert {name: len(layer.entries) for name, layer in mask.layers.items()} == {"a": 3, "b": 0}
    assert mask.density == like.density


@CHOICES
def test_a_control_is_the_same_bytes_every_time(
    choose: type[Choose], weights: dict[str, Tensor], empty: PruningMask
) -> None:
    counts = counts_of_share(empty.layers, 0.1)
    first, second = (control_mask(weights, empty, counts, choose()) for _ in range(2))
    assert first.to_bytes() == second.to_bytes()


def test_another_seed_takes_other_weights(weights: dict[str, Tensor], empty: PruningMask) -> None:
    counts = counts_of_share(empty.layers, 0.1)
    one, other = (control_mask(weights, empty, counts, at_random(seed)) for seed in (0, 1))
    assert one.digest != other.digest


def test_magnitude_takes_what_is_larger_or_smaller_than_all_it_leaves(
    weights: dict[str, Tensor], empty: PruningMask
) -> None:
    counts = counts_of_share(empty.layers, 0.2)
    for smallest in (False, True):
        mask = control_mask(weights, empty, counts, by_magnitude(smallest=smallest))
        for name, layer in mask.layers.items():
            taken = torch.zeros(SHAPES[name], dtype=torch.bool)
            taken.view(-1)[layer.entries] = True
            inside = slice(FIRST_COLUMN[name], None)
            magnitude, taken = weights[name][:, inside].abs(), taken[:, inside]
            low, high = (magnitude[taken], magnitude[~taken])[:: 1 if smallest else -1]
            assert low.max() <= high.min()


@pytest.mark.parametrize("density", [0.0, -0.1, 1.5, float("nan")])
def test_a_density_that_is_no_share_is_refused(density: float, empty: PruningMask) -> None:
    with pytest.raises(UserError, match="--density"):
        counts_of_share(empty.layers, density)


def test_a_share_of_less_than_one_weight_is_refused(empty: PruningMask) -> None:
    with pytest.raises(EmptyMaskError, match="less than one weight"):
        counts_of_share(empty.layers, 1e-6)


def test_a_mask_of_other_weights_is_refused(weights: dict[str, Tensor], empty: PruningMask) -> None:
    other = unpruned({**weights, "a": weights["a"] + 1}, FIRST_COLUMN)
    with pytest.raises(UserError, match="another model"):
        counts_like(other, empty)
