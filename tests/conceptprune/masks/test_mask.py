"""Masks: what they take from a model, that they give it back, and how they are written."""

from itertools import permutations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from conceptprune import ModelMismatchError, UserError, load_mask, union_masks
from conceptprune.masks.codec import decode_entries, encode_entries
from conceptprune.masks.layer_mask import LayerMask
from conceptprune.masks.mask import PruningMask
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
        str(index): LayerMask.of(
            model[index].weight.detach(), np.array(sorted(chosen), dtype=np.int64)
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
    with pytest.raises(UserError, match="already applied"):
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


FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def wide_model() -> nn.Module:
    """With enough values that the roads to bfloat16 end apart."""
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(64, 96))


@pytest.mark.parametrize("file", FLOATS)
@pytest.mark.parametrize("way", [(), *((first,) for first in FLOATS), FLOATS[1:], FLOATS[:0:-1]])
def test_a_mask_fits_the_model_of_its_files_in_every_precision(
    file: torch.dtype, way: tuple[torch.dtype, ...]
) -> None:
    files = wide_model().to(file)
    mask = make_mask(files, "a", [1, 2])
    live = wide_model().to(file)
    for dtype in way:
        live = live.to(dtype)
    mask.apply(live)
    assert mask.is_applied(live)


def mask_of_before(weight: torch.Tensor) -> PruningMask:
    """As earlier versions made them: with one digest, in the precision of the weight then."""
    old = LayerMask(
        shape=(96, 64), entries=np.array([1], np.int64), weight_digest=weight_digest(weight)
    )
    name = str(weight.dtype).removeprefix("torch.")
    return PruningMask(
        concepts=("a",),
        component="unet",
        layers={"0": old},
        provenance={"model": "a toy", "collection": {"dtype": name}},
    )


@pytest.mark.parametrize("made_in", FLOATS)
@pytest.mark.parametrize("loaded_in", FLOATS)
def test_a_mask_of_before_fits_wherever_its_one_digest_tells(
    made_in: torch.dtype, loaded_in: torch.dtype
) -> None:
    mask = mask_of_before(wide_model().to(made_in)[0].weight.detach())
    live = wide_model().to(loaded_in)
    if (made_in == torch.bfloat16) == (loaded_in == torch.bfloat16) or loaded_in == torch.float32:
        mask.apply(live)
        return
    with pytest.raises(ModelMismatchError, match=r"in another precision, .*load the model in"):
        mask.apply(live)


@pytest.mark.parametrize("made_in", FLOATS)
@pytest.mark.parametrize("loaded_in", FLOATS)
def test_a_mask_of_before_fits_in_every_precision_where_the_models_files_are_at_hand(
    made_in: torch.dtype, loaded_in: torch.dtype, tmp_path: Path
) -> None:
    wide_files(tmp_path, wide_model())
    mask = mask_of_before(wide_model().to(made_in)[0].weight.detach())
    live = wide_files_loaded(tmp_path, loaded_in)
    mask.apply(live)
    assert mask.is_applied(live)
    mask.remove(live)

    with torch.no_grad():
        live[0].weight[0, 0] += 1
    with pytest.raises(ModelMismatchError, match="made for"):
        mask.apply(live)
    wide_files(tmp_path, live.float())
    with pytest.raises(ModelMismatchError, match="made for"):
        mask.apply(wide_files_loaded(tmp_path, loaded_in))


def wide_files(folder: Path, model: nn.Module) -> None:
    (folder / "config.json").write_text("{}")
    save_file(model.state_dict(), folder / "diffusion_pytorch_model.safetensors")


def wide_files_loaded(folder: Path, dtype: torch.dtype) -> nn.Module:
    """As diffusers and transformers load a component: its config says where from."""
    model = nn.Sequential(nn.Linear(64, 96))
    model.load_state_dict(load_file(folder / "diffusion_pytorch_model.safetensors"))
    model.config = SimpleNamespace(_name_or_path=str(folder))
    return model.to(dtype)


def test_a_mismatch_says_whether_it_is_the_model_the_precision_or_an_earlier_pruning() -> None:
    mask = make_mask(wide_model(), "a", [1, 2])
    trained = wide_model()
    with torch.no_grad():
        trained[0].weight *= 1.001
    coarse = wide_model()
    coarse[0].weight.data = coarse[0].weight.data.to(torch.float8_e4m3fn).float()
    pruned = wide_model()
    pruned[0].weight.data.view(-1)[[1, 2]] = 0
    for live, why in (
        (trained, "has other weights: it is another model"),
        (trained.bfloat16(), "has other weights: it is another model"),
        (coarse, "in another precision, float8_e4m3fn.* load the model in float32 or"),
        (pruned, "the model was pruned before; load its base"),
    ):
        with pytest.raises(ModelMismatchError, match=why):
            mask.apply(live)


def test_masks_made_of_one_model_in_two_precisions_unite() -> None:
    full, half = make_mask(wide_model(), "a", [1]), make_mask(wide_model().bfloat16(), "b", [2])
    for union in (union_masks([full, half]), union_masks([half, full])):
        union.apply(wide_model())


def test_masks_compare_by_what_they_prune_and_show_in_one_line() -> None:
    one, same = (make_mask(make_model(), "a", [5, 7], []) for _ in range(2))
    other = make_mask(make_model(), "a", [5, 8], [])
    assert one == same
    assert one.layers == same.layers
    assert one != other
    assert one.layers["0"] != other.layers["0"]
    assert one != "a"
    assert len({one, same, other}) == 2
    assert len({*one.layers.values(), *same.layers.values()}) == 2
    assert repr(one) == (
        f"<PruningMask of a: 2 of 384 weights in 2 linears of unet, {one.digest[:12]}>"
    )
    assert repr(one.layers["0"]) == "<LayerMask: 2 weights of 12 x 16>"


def test_a_file_gives_the_mask_back_and_equal_masks_equal_bytes(tmp_path: Path) -> None:
    model = make_model()
    mask = make_mask(model, "a", [5, 7], [])
    mask.save(tmp_path / "mask.safetensors")
    loaded = load_mask(tmp_path / "mask.safetensors")
    assert loaded.to_bytes() == mask.to_bytes() == make_mask(model, "a", [5, 7], []).to_bytes()
    assert (loaded.concepts, loaded.num_entries, loaded.num_weights) == (("a",), 2, 384)
    assert loaded.layer_density() == {"0": 2 / 192, "1": 0.0}


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
