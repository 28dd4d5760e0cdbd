"""Refilling zeroed places: what it may read, what it changes, what it can find; and the seal."""

import numpy as np
import pytest
import torch

from conceptprune.attacks.attempts import Scene
from conceptprune.attacks.refill import FILLS, refilled, replaced, suspect_places, zero_places
from conceptprune.checkpoints.seal import seal_secret, sealed_weight
from conceptprune.evaluation.attack_settings import Refill
from conceptprune.masks.layer_mask import LayerMask
from conceptprune.masks.mask import PruningMask
from conceptprune.models.weights import weight_digest

SHAPE = (24, 40)
SETTINGS = Refill(rank=2, rounds=300)
PLACES = np.sort(np.random.default_rng(1).choice(SHAPE[0] * SHAPE[1], 60, replace=False))


def low_rank_weight(seed: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    left, right = torch.randn(SHAPE[0], 2, generator=rng), torch.randn(2, SHAPE[1], generator=rng)
    return left @ right


def layer_of(weight: torch.Tensor) -> LayerMask:
    return LayerMask(shape=SHAPE, entries=PLACES, weight_digest=weight_digest(weight))


def mask_of(weight: torch.Tensor) -> PruningMask:
    return PruningMask(
        concepts=("a",), component="unet", layers={"w": layer_of(weight)}, provenance={}
    )


@pytest.mark.parametrize("name", FILLS)
def test_a_fill_depends_on_the_checkpoint_alone(name: str) -> None:
    base = low_rank_weight(0)
    other = base.clone()
    other.view(-1)[PLACES] += 5  # Another base, the same once it is pruned.
    results = []
    for whole in (base, other):
        pruned = {"w": layer_of(whole).pruned(whole)}
        results.append(refilled(pruned, zero_places(pruned), FILLS[name], SETTINGS)["w"])
    assert torch.equal(*results)


@pytest.mark.parametrize("name", [name for name in FILLS if name != "amplify"])
def test_a_fill_leaves_what_was_not_pruned(name: str) -> None:
    pruned = {"w": layer_of(low_rank_weight(0)).pruned(low_rank_weight(0))}
    filled = refilled(pruned, zero_places(pruned), FILLS[name], SETTINGS)["w"]
    changed = np.flatnonzero((filled != pruned["w"]).flatten().numpy())
    assert changed.tolist() == PLACES.tolist()


def test_completion_finds_the_entries_of_a_low_rank_weight() -> None:
    whole = low_rank_weight(0)
    pruned = {"w": layer_of(whole).pruned(whole)}
    filled = refilled(pruned, zero_places(pruned), FILLS["low-rank"], SETTINGS)["w"]
    assert (filled - whole).abs().max() < 0.01 * whole.abs().max()


def test_amplifying_scales_only_columns_that_lost_entries() -> None:
    whole = low_rank_weight(0)
    pruned = {"w": whole.clone()}
    pruned["w"][:5, 3] = 0
    filled = refilled(pruned, zero_places(pruned), FILLS["amplify"], SETTINGS)["w"]
    assert np.flatnonzero((filled != pruned["w"]).any(0)).tolist() == [3]
    assert torch.equal(filled[:5, 3], torch.zeros(5))
    others = pruned["w"].norm(dim=0)[torch.arange(SHAPE[1]) != 3]
    assert filled[:, 3].norm() == pytest.approx(others.median().item(), rel=1e-5)


@pytest.mark.parametrize("name", FILLS)
@pytest.mark.parametrize("weight", [low_rank_weight(0), torch.zeros(SHAPE)])
def test_a_layer_without_zeros_or_with_nothing_else_is_left_alone(
    name: str, weight: torch.Tensor
) -> None:
    assert refilled({"w": weight}, zero_places({"w": weight}), FILLS[name], SETTINGS) == {}


def test_replaced_weights_come_back_to_the_bit(scene_of: "type[Scene]") -> None:
    model = scene_of().model
    sites = ("ffn_out",)
    (name, site_linear), *_ = model.site_linears(sites).items()
    before = site_linear.linear.weight.detach().clone()
    with replaced(model, sites, {name: torch.ones_like(before)}):
        assert site_linear.linear.weight.eq(1).all()
    assert torch.equal(site_linear.linear.weight, before)


def test_sealed_places_hold_no_zero_and_no_other_entrys_value() -> None:
    whole = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3))
    mask = mask_of(whole)
    sealed = sealed_weight(mask.layers["w"], whole, seal_secret(mask), "w")
    assert zero_places({"w": sealed})["w"].size == 0
    changed = np.flatnonzero((sealed != whole).flatten().numpy())
    assert changed.tolist() == PLACES.tolist()
    assert np.unique(sealed.numpy()).size == sealed.numel()


def test_the_seal_is_the_same_for_the_same_mask_and_another_for_another() -> None:
    whole = low_rank_weight(0)
    mask = mask_of(whole)
    same = sealed_weight(mask.layers["w"], whole, seal_secret(mask), "w")
    assert torch.equal(same, sealed_weight(mask.layers["w"], whole, seal_secret(mask), "w"))
    assert seal_secret(mask) != mask.digest
    assert not torch.equal(same, sealed_weight(mask.layers["w"], whole, mask.digest, "w"))


def test_without_zeros_the_weakest_neurons_are_suspected_and_amplified() -> None:
    weight = torch.randn(SHAPE, generator=torch.Generator().manual_seed(5))
    weight[:, [3, 17]] *= 0.1
    options = Refill(suspects=2 / SHAPE[1])
    places = suspect_places({"w": weight}, options)
    assert set(places["w"] % SHAPE[1]) == {3, 17}
    assert len(places["w"]) == 2 * SHAPE[0]
    louder = refilled({"w": weight}, places, FILLS["amplify"], options)["w"]
    assert np.flatnonzero((louder != weight).any(0)).tolist() == [3, 17]
    assert louder[:, 3].norm() == pytest.approx(louder.norm(dim=0).median().item(), rel=0.1)
