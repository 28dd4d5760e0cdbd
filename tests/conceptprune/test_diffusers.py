"""Masks by name on a pipeline: which are active, and that the bytes are those of exactly these."""

import itertools
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from conceptprune import ModelMismatchError, UserError
from conceptprune.diffusers import (
    active_masks,
    delete_masks,
    disable_masks,
    fuse_masks,
    load_mask,
    loaded_masks,
    set_masks,
    unfuse_masks,
)
from tests.conceptprune.masks.test_mask import make_mask, make_model

pytestmark = pytest.mark.slow

NAMES = ("a", "b", "c")
MASKS = {
    "a": ([1, 2, 3], [0, 5]),
    "b": ([3, 4], [5, 6, 7]),
    "c": ([], [0, 190]),
}
"""Overlapping entries of the two linears of `make_model`."""


class Pipeline(DiffusionPipeline):
    """A real diffusers pipeline around the smallest module there is."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.register_modules(unet=unet)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("masks")
    for name, entries in MASKS.items():
        make_mask(make_model(), name, *map(list, entries)).save(folder / f"{name}.safetensors")
    return {name: folder / f"{name}.safetensors" for name in NAMES}


def make_pipe(files: dict[str, Path] | None = None) -> Pipeline:
    pipe = Pipeline(make_model())
    for path in (files or {}).values():
        load_mask(pipe, path)
    return pipe


def bytes_of(pipe: Pipeline) -> list[bytes]:
    return [p.detach().view(torch.uint8).numpy().tobytes() for p in pipe.unet.parameters()]


def expected_bytes(active: frozenset[str]) -> list[bytes]:
    pipe = Pipeline(make_model())
    for name in active:
        for linear, entries in zip(pipe.unet, MASKS[name], strict=True):
            linear.weight.data.view(-1)[list(entries)] = 0
    return bytes_of(pipe)


STATES = {
    frozenset(chosen): expected_bytes(frozenset(chosen))
    for count in range(4)
    for chosen in itertools.combinations(NAMES, count)
}
"""The bytes with each set of masks active."""


def test_loading_activates_beside_what_is_active(files: dict[str, Path]) -> None:
    pipe = Pipeline(make_model())
    assert load_mask(pipe, files["a"]) == "a"
    assert load_mask(pipe, files["b"], name="mine") == "mine"
    assert active_masks(pipe) == list(loaded_masks(pipe)) == ["a", "mine"]
    assert bytes_of(pipe) == STATES[frozenset("ab")]


@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(
        st.one_of(
            st.permutations(NAMES).flatmap(
                lambda names: st.integers(0, 3).map(lambda n: ("set", tuple(names[:n])))
            ),
            st.sampled_from([("disable", ()), ("fuse", ()), ("unfuse", ())]),
        ),
        max_size=8,
    )
)
def test_after_any_steps_the_bytes_are_those_of_exactly_the_active_masks(
    files: dict[str, Path], steps: list[tuple[str, tuple[str, ...]]]
) -> None:
    pipe = make_pipe(files)
    active, fused = frozenset(NAMES), frozenset[str]()
    for verb, names in steps:
        wanted = frozenset(names)
        if verb in ("set", "disable"):
            if fused - wanted:
                with pytest.raises(UserError, match="fused and cannot be taken off"):
                    set_masks(pipe, names) if verb == "set" else disable_masks(pipe)
            else:
                set_masks(pipe, names) if verb == "set" else disable_masks(pipe)
                active = wanted
        elif verb == "fuse" and active:
            fuse_masks(pipe)
            fused = active
        elif verb == "unfuse" and fused:
            unfuse_masks(pipe)
            fused = frozenset()
        else:
            with pytest.raises(UserError, match="no mask is"):
                fuse_masks(pipe) if verb == "fuse" else unfuse_masks(pipe)
        assert bytes_of(pipe) == STATES[active]
        assert set(active_masks(pipe)) == active
    if fused:
        unfuse_masks(pipe)
    disable_masks(pipe)
    assert bytes_of(pipe) == STATES[frozenset()]


def test_pipelines_know_nothing_of_each_other(files: dict[str, Path]) -> None:
    one, other = make_pipe(files), make_pipe({"b": files["b"]})
    set_masks(one, ["a"])
    fuse_masks(other)
    assert (active_masks(one), active_masks(other)) == (["a"], ["b"])
    assert bytes_of(one) == STATES[frozenset("a")]
    with pytest.raises(UserError, match="no mask is fused"):
        unfuse_masks(one)
    with pytest.raises(UserError, match="no mask 'a' is loaded; there are: 'b'"):
        set_masks(other, ["a"])


def test_a_fused_mask_is_not_taken_off_by_its_own_remove_either(files: dict[str, Path]) -> None:
    pipe = make_pipe(files)
    fuse_masks(pipe)
    with pytest.raises(UserError, match="unfuse_masks"):
        loaded_masks(pipe)["a"].remove(pipe)
    assert bytes_of(pipe) == STATES[frozenset(NAMES)]


def test_a_mask_applied_by_hand_can_be_named_and_taken_off(files: dict[str, Path]) -> None:
    pipe = Pipeline(make_model())
    make_mask(make_model(), "a", *map(list, MASKS["a"])).apply(pipe)
    load_mask(pipe, files["a"])
    disable_masks(pipe)
    assert bytes_of(pipe) == STATES[frozenset()]


def test_a_mask_is_loaded_under_one_name_only(files: dict[str, Path]) -> None:
    pipe = make_pipe({"a": files["a"]})
    with pytest.raises(UserError, match="this very mask is loaded already, as 'a'"):
        load_mask(pipe, files["a"], name="again")
    assert load_mask(pipe, files["a"], name="a") == "a"
    assert bytes_of(pipe) == STATES[frozenset("a")]


def test_a_name_that_is_loaded_again_is_replaced(files: dict[str, Path]) -> None:
    pipe = make_pipe({"a": files["a"], "c": files["c"]})
    load_mask(pipe, files["b"], name="a")
    assert active_masks(pipe) == ["a", "c"]
    assert loaded_masks(pipe)["a"].concepts == ("b",)
    assert bytes_of(pipe) == STATES[frozenset("bc")]


def test_a_fused_name_is_not_replaced_and_nothing_is_changed(files: dict[str, Path]) -> None:
    pipe = make_pipe({"a": files["a"]})
    fuse_masks(pipe)
    with pytest.raises(UserError, match="is fused"):
        load_mask(pipe, files["b"], name="a")
    assert loaded_masks(pipe)["a"].concepts == ("a",)
    assert bytes_of(pipe) == STATES[frozenset("a")]


def test_what_is_deleted_is_off_and_no_longer_loaded(files: dict[str, Path]) -> None:
    pipe = make_pipe(files)
    set_masks(pipe, ["a", "b"])
    with pytest.raises(UserError, match="no mask 'd' is loaded"):
        delete_masks(pipe, ["a", "d"])
    delete_masks(pipe, ["a", "c"])
    assert (list(loaded_masks(pipe)), active_masks(pipe)) == (["b"], ["b"])
    assert bytes_of(pipe) == STATES[frozenset("b")]
    delete_masks(pipe, "b")
    assert bytes_of(pipe) == STATES[frozenset()]
    load_mask(pipe, files["a"])
    assert active_masks(pipe) == ["a"]


def test_one_name_may_be_given_as_it_is(files: dict[str, Path]) -> None:
    pipe = Pipeline(make_model())
    load_mask(pipe, files["a"], name="van gogh")
    load_mask(pipe, files["b"])
    set_masks(pipe, "van gogh")
    assert active_masks(pipe) == ["van gogh"]
    assert bytes_of(pipe) == STATES[frozenset("a")]


def test_a_mask_within_another_goes_by_what_was_asked_for(tmp_path: Path) -> None:
    pipe = Pipeline(make_model())
    make_mask(make_model(), "small", [1], [5]).save(tmp_path / "small.safetensors")
    make_mask(make_model(), "large", [1, 2, 3], [0, 5]).save(tmp_path / "large.safetensors")
    load_mask(pipe, tmp_path / "large.safetensors")
    load_mask(pipe, tmp_path / "small.safetensors")
    set_masks(pipe, "large")
    assert active_masks(pipe) == ["large"]
    set_masks(pipe, "small")
    assert active_masks(pipe) == ["small"]
    assert pipe.unet[0].weight.view(-1)[:4].eq(0).tolist() == [True, True, False, False]
    disable_masks(pipe)
    assert bytes_of(pipe) == STATES[frozenset()]


def test_weights_that_something_else_wrote_are_neither_claimed_nor_overwritten(
    files: dict[str, Path],
) -> None:
    pipe = make_pipe({"a": files["a"]})
    with torch.no_grad():
        pipe.unet[1].weight += 0.25  # As a fused LoRA does.
    written = bytes_of(pipe)
    assert active_masks(pipe) == []
    for verb in (disable_masks, lambda pipe: delete_masks(pipe, "a")):
        with pytest.raises(UserError, match=r"cannot be taken off: something else .* to 1 since"):
            verb(pipe)
    assert bytes_of(pipe) == written
    with torch.no_grad():
        pipe.unet[1].weight -= 0.25
        pipe.unet[1].weight.view(-1)[[0, 5]] = 0
    assert active_masks(pipe) == ["a"]


def test_a_model_that_lost_the_weights_elsewhere_says_so(files: dict[str, Path]) -> None:
    pipe, source = Pipeline(make_model()), make_pipe({"a": files["a"]})
    pipe.unet.load_state_dict(source.unet.state_dict())
    load_mask(pipe, files["a"])
    assert active_masks(pipe) == ["a"]
    with pytest.raises(UserError, match="its weights are zero, but the original bytes are not"):
        disable_masks(pipe)


def test_other_weights_are_refused_and_nothing_is_changed(files: dict[str, Path]) -> None:
    pipe = make_pipe(files)
    set_masks(pipe, ["a"])
    with torch.no_grad():
        pipe.unet[0].weight[3, 3] += 0.1
    before = bytes_of(pipe)
    with pytest.raises(ModelMismatchError):
        set_masks(pipe, ["b"])
    assert bytes_of(pipe) == before
    assert active_masks(pipe) == ["a"]


def test_without_the_bytes_nothing_can_be_unfused(files: dict[str, Path]) -> None:
    pipe = make_pipe(files)
    fuse_masks(pipe)
    pipe.unet = make_model()
    with pytest.raises(UserError, match="load the base model again"):
        unfuse_masks(pipe)
    assert active_masks(pipe) == []
    assert bytes_of(pipe) == STATES[frozenset()]
