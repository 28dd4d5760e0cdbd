"""Masks: what they take from a model, that they give it back, and how they are written."""

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from conceptprune import ModelMismatchError, UserError, load_mask, union_masks
from conceptprune.masks.codec import decode_entries, encode_entries
from conceptprune.masks.mask import LayerMask, PruningMask
from conceptprune.models.weights import weight_digest

index_sets = st.sets(st.integers(0, 70_000), max_size=200)


def make_model(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(16, 12), nn.Linear(12, 16)).to(dtype)
    with torch.no_grad():
        # Values whose bytes an addition or a product would not give back.
        model[0].weight.view(-1)[:3] = torch.tensor([-0.0, float("nan"), 5e-8]).to(dtype)
    return model


def make_mask(model: nn.Module, name: str, *entries: list[int]) -> PruningMask:
    layers = {
        str(index): LayerMask(
            shape=tuple(model[index].weight.shape),
            entries=np.array(sorted(chosen), dtype=np.int64),
            weight_digest=weight_digest(model[index].weight),
        )
        for index, chosen in enumerate(entries)
    }
    return PruningMask(
        concepts=(name,), component="unet", layers=layers, provenance={"model": "a toy"}
    )


def bytes_of(model: nn.Module) -> list[bytes]:
    return [p.detach().view(torch.uint8).numpy().tobytes() for p in model.parameters()]


@given(index_sets)
def test_entries_survive_their_coding(indices: set[int]) -> None:
    entries = np.array(sorted(indices), dtype=np.int64)
    assert decode_entries(encode_entries(entries)).tolist() == entries.tolist()


def test_two_per_cent_of_a_layer_take_about_a_byte_each() -> None:
    entries = np.flatnonzero(np.random.default_rng(0).random(1_000_000) < 0.02)
    assert len(encode_entries(entries)) < 1.02 * len(entries)


@pytest.mark.parametrize("entries", [[3, 3], [4, 2], [-1, 2]])
def test_unsorted_or_negative_entries_are_not_coded(entries: list[int]) -> None:
    with pytest.raises(ValueError, match="increasing"):
        encode_entries(np.array(entries, dtype=np.int64))


def test_apply_zeroes_exactly_the_entries() -> None:
    model = make_model()
    before = model[1].weight.detach().clone()
    make_mask(model, "a", [], [0, 17, 191]).apply(model)
    changed = (model[1].weight != before).view(-1).nonzero().view(-1)
    assert changed.tolist() == [0, 17, 191]
    assert model[1].weight.view(-1)[changed].eq(0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@settings(max_examples=15, deadline=None)
@given(sets=st.lists(st.sets(st.integers(0, 191), max_size=60), min_size=3, max_size=3))
def test_overlapping_masks_removed_in_any_order_give_back_every_byte(
    dtype: torch.dtype, sets: list[set[int]]
) -> None:
    model = make_model(dtype)
    original = bytes_of(model)
    masks = [
        make_mask(model, str(index), sorted(chosen), sorted(chosen))
        for index, chosen in enumerate(sets)
    ]
    for order in permutations(masks):
        for mask in masks:
            mask.apply(model)
        for done, mask in enumerate(order):
            mask.remove(model)
            still = {e for other in order[done + 1 :] for e in other.layers["1"].entries.tolist()}
            weight = model[1].weight.detach().view(-1)
            assert all(weight[entry] == 0 for entry in still)
        assert bytes_of(model) == original


def test_a_mask_is_applied_once_and_removed_once() -> None:
    model = make_model()
    mask = make_mask(model, "a", [1], [2])
    with pytest.raises(UserError, match="not applied"):
        mask.remove(model)
    mask.apply(model)
    with pytest.raises(UserError, match="applied already"):
        mask.apply(model)


def test_a_mask_refuses_other_weights_and_changes_nothing() -> None:
    model = make_model()
    mask = make_mask(model, "a", [1], [2])
    with torch.no_grad():
        model[1].weight[3, 3] += 0.1
    before = bytes_of(model)
    with pytest.raises(ModelMismatchError, match="made for a toy"):
        mask.apply(model)
    assert bytes_of(model) == before
    mask.apply(model, force=True)
    assert model[1].weight.view(-1)[2] == 0


def test_a_mask_refuses_another_architecture_even_when_forced() -> None:
    mask = make_mask(make_model(), "a", [1], [2])
    with pytest.raises(ModelMismatchError, match="wants a linear"):
        mask.apply(nn.Sequential(nn.Linear(16, 12)), force=True)


def test_a_mask_made_in_half_precision_fits_the_same_weights_in_full() -> None:
    half = make_model(torch.float16)
    full = make_model(torch.float16).float()
    make_mask(half, "a", [1], [2]).apply(full)
    assert full[1].weight.view(-1)[2] == 0


def test_a_file_gives_the_mask_back_and_equal_masks_equal_bytes(tmp_path: Path) -> None:
    model = make_model()
    mask = make_mask(model, "a", [5, 7], [])
    mask.save(tmp_path / "mask.safetensors")
    loaded = load_mask(tmp_path / "mask.safetensors")
    assert loaded.to_bytes() == mask.to_bytes() == make_mask(model, "a", [5, 7], []).to_bytes()
    assert (loaded.concepts, loaded.num_entries, loaded.num_weights) == (("a",), 2, 384)
    assert loaded.layer_density() == {"0": 2 / 192, "1": 0.0}


def test_what_is_no_mask_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mask.safetensors"
    with pytest.raises(UserError, match="cannot read"):
        load_mask(path)
    whole = make_mask(make_model(), "a", [5], []).to_bytes()
    for damaged in (b"", b"not safetensors", whole[:-3], whole.replace(b"mask/1", b"mask/9")):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="mask"):
            load_mask(path)


@given(a=st.sets(st.integers(0, 191)), b=st.sets(st.integers(0, 191)))
def test_a_union_prunes_what_either_mask_does(a: set[int], b: set[int]) -> None:
    model = make_model()
    union = make_mask(model, "a", sorted(a), []).union(make_mask(model, "b", sorted(b), []))
    assert set(union.layers["0"].entries.tolist()) == a | b
    assert union.concepts == ("a", "b")


def test_masks_of_different_models_do_not_unite() -> None:
    model, other = make_model(), make_model()
    with torch.no_grad():
        other[0].weight[0, 5] = 9.0
    with pytest.raises(ModelMismatchError):
        union_masks([make_mask(model, "a", [1], []), make_mask(other, "b", [1], [])])
