"""Collection: the same sums whatever the windows, only the site's inputs, and loud failures."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from conceptprune.collection.collect import (
    Window,
    collect,
    collect_window,
    neuron_energy,
)
from conceptprune.collection.statistics import join_calls
from conceptprune.errors import NumericalError, UserError
from conceptprune.manifest import Collection
from conceptprune.models.base import SHARED_FROM
from conceptprune.models.prompt import Prompt
from conceptprune.models.stable_diffusion import StableDiffusion
from conceptprune.models.trajectory import TrajectoryState

pytestmark = pytest.mark.slow

PROMPTS = [
    Prompt(text=f"a photo of a {thing}", seed=seed)
    for seed, thing in enumerate(["cat", "dog", "car"])
]
SETTINGS = Collection(steps=20, tau=4, batch_size=2)


@pytest.mark.parametrize("length", [1, 3])
def test_windows_change_no_bit(tiny_pipe: StableDiffusionPipeline, length: int) -> None:
    model = StableDiffusion.from_pipeline(tiny_pipe)
    whole = collect(model, PROMPTS, SETTINGS)
    windows, states = [], None
    for start in range(0, SETTINGS.tau, length):
        window = Window(start, min(start + length, SETTINGS.tau))
        result = collect_window(model, PROMPTS, SETTINGS, window, states)
        windows.append(result.statistics)
        states = [TrajectoryState.from_bytes(state.to_bytes()) for state in result.states]
    assert join_calls(windows).to_arrow().equals(whole.to_arrow())


def test_energy_is_the_sum_of_squares_of_unit_rows() -> None:
    activations = torch.randn(3, 40, 16) * torch.logspace(-6, 3, 40).view(1, 40, 1)
    rows = activations.double()
    unit = rows / rows.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    torch.testing.assert_close(
        neuron_energy(activations).double(), unit.square().sum(1), rtol=1e-5, atol=1e-7
    )


def test_a_row_of_zeros_counts_for_nothing() -> None:
    assert neuron_energy(torch.zeros(1, 4, 8)).eq(0).all()


def test_energy_does_not_depend_on_how_much_is_squared_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    activations = torch.randn(5, 7, 16, generator=torch.Generator().manual_seed(0))
    at_once = neuron_energy(activations)
    monkeypatch.setattr("conceptprune.collection.collect.CHUNK_ELEMENTS", 2 * 7 * 16)
    torch.testing.assert_close(neuron_energy(activations), at_once, rtol=1e-6, atol=0)


def test_half_precision_is_summed_in_single() -> None:
    activations = torch.full((1, 4, 8), 300.0, dtype=torch.float16)
    torch.testing.assert_close(neuron_energy(activations), torch.full((1, 8), 4 / 8))


def test_the_conditional_branch_alone_is_half_of_the_rows(
    tiny_pipe: StableDiffusionPipeline,
) -> None:
    model = StableDiffusion.from_pipeline(tiny_pipe)
    settings = {"steps": 20, "tau": 2, "batch_size": 3}
    both = collect(model, PROMPTS, Collection(**settings))
    conditional = collect(model, PROMPTS, Collection(**settings, guidance_branches="conditional"))
    alone = collect(model, PROMPTS, Collection(**settings, guidance=1.0))
    for name, layer in conditional.layers.items():
        assert 2 * layer.num_rows == both.layers[name].num_rows
        assert (layer.sum_sq <= both.layers[name].sum_sq).all()
        # The first call sees the same latents with and without guidance.
        torch.testing.assert_close(
            torch.from_numpy(layer.sum_sq[0]),
            torch.from_numpy(alone.layers[name].sum_sq[0]),
            rtol=1e-4,
            atol=1e-7,
        )


def test_collection_leaves_no_hook_behind(tiny_pipe: StableDiffusionPipeline) -> None:
    collect(StableDiffusion.from_pipeline(tiny_pipe), PROMPTS[:1], SETTINGS)
    assert not any(module._forward_pre_hooks for module in tiny_pipe.unet.modules())


def test_more_calls_than_the_scheduler_makes_are_refused(
    tiny_pipe: StableDiffusionPipeline,
) -> None:
    model = StableDiffusion.from_pipeline(tiny_pipe)
    with pytest.raises(UserError, match=r"collection\.tau: 7 calls .* only 6 with steps: 5"):
        collect(model, PROMPTS[:1], Collection(steps=5, tau=5).model_copy(update={"tau": 7}))


def test_an_overflow_names_its_layer_and_call(tiny_pipe: StableDiffusionPipeline) -> None:
    name = "mid_block.attentions.0.transformer_blocks.0.ff.net.2"
    calls = 0

    def overflow(_module: object, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        nonlocal calls
        calls += 1
        return (inputs[0] * float("inf"),) if calls == 3 else inputs

    tiny_pipe.unet.get_submodule(name).register_forward_pre_hook(overflow)
    model = StableDiffusion.from_pipeline(tiny_pipe)
    with pytest.raises(NumericalError, match=f"layer {name}, denoiser call 2"):
        collect(model, PROMPTS[:1], SETTINGS)


def test_no_prompts_are_refused(tiny_pipe: StableDiffusionPipeline) -> None:
    with pytest.raises(UserError, match="no prompts are given"):
        collect(tiny_pipe, [], SETTINGS)


def _rows(pipe: StableDiffusionPipeline, settings: Collection, prompts: list[Prompt]) -> list[int]:
    """How many samples the denoiser is given at each call of a collection."""
    seen: list[int] = []
    handle = pipe.unet.conv_in.register_forward_pre_hook(
        lambda _, inputs: seen.append(len(inputs[0]))
    )
    try:
        collect(StableDiffusion.from_pipeline(pipe), prompts, settings)
    finally:
        handle.remove()
    return seen


SAME_NOISE = [Prompt(text=f"a photo of {number} cats", seed=0) for number in range(SHARED_FROM)]


def test_the_first_calls_unconditional_branch_is_computed_once_for_prompts_with_the_same_latents(
    tiny_pipe: StableDiffusionPipeline,
) -> None:
    own_noise = [replace(prompt, seed=seed) for seed, prompt in enumerate(SAME_NOISE)]
    settings = {"steps": 20, "tau": 3, "batch_size": SHARED_FROM}
    twice = 2 * SHARED_FROM
    assert _rows(tiny_pipe, Collection(**settings), SAME_NOISE) == [SHARED_FROM + 1, twice, twice]
    assert _rows(tiny_pipe, Collection(**settings), own_noise) == [twice] * 3
    one_branch = Collection(**settings, guidance=1.0)
    assert _rows(tiny_pipe, one_branch, SAME_NOISE) == [SHARED_FROM] * 3


@pytest.mark.parametrize("num_prompts", [SHARED_FROM, 8, 12])
@pytest.mark.parametrize("branches", ["both", "conditional"])
def test_a_shared_unconditional_branch_counts_for_every_prompt(
    tiny_pipe: StableDiffusionPipeline,
    monkeypatch: pytest.MonkeyPatch,
    branches: str,
    num_prompts: int,
) -> None:
    model = StableDiffusion.from_pipeline(tiny_pipe)
    prompts = [Prompt(text=f"{number} cats", seed=0) for number in range(num_prompts)]
    settings = Collection.model_validate(
        {"steps": 20, "tau": 3, "batch_size": num_prompts, "guidance_branches": branches}
    )
    shared = collect(model, prompts, settings)
    assert collect(model, prompts, settings).to_arrow().equals(shared.to_arrow())
    monkeypatch.setattr("conceptprune.models.base.SHARED_FROM", num_prompts + 1)
    each = collect(model, prompts, settings)
    for name, layer in each.layers.items():
        assert shared.layers[name].num_rows == layer.num_rows
        # On a CPU, few samples take other kernels: float32 differs in its last bits, which shows
        # most in small sums.
        np.testing.assert_allclose(shared.layers[name].sum_sq, layer.sum_sq, rtol=1e-4)
        np.testing.assert_allclose(shared.layers[name].sum_norm, layer.sum_norm, rtol=1e-4)


def test_parts_of_a_batch_share_nothing(tiny_pipe: StableDiffusionPipeline) -> None:
    model = StableDiffusion.from_pipeline(tiny_pipe)
    settings, window = Collection(steps=20, tau=2, batch_size=SHARED_FROM), Window(0, 2)
    parts = collect_window(model, SAME_NOISE, settings, window, at_once=4, keep_states=False)
    whole = collect_window(model, SAME_NOISE, settings, window, keep_states=False)
    for name, layer in whole.statistics.layers.items():
        np.testing.assert_allclose(
            parts.statistics.layers[name].sum_sq, layer.sum_sq, rtol=1e-4, atol=1e-9
        )


@pytest.mark.parametrize("at_once", [None, 2])
def test_nothing_after_the_sites_last_linear_is_computed_at_the_last_call(
    tiny_pipe: StableDiffusionPipeline, at_once: int | None
) -> None:
    model = StableDiffusion.from_pipeline(tiny_pipe)
    ends = []
    handle = tiny_pipe.unet.conv_out.register_forward_hook(lambda *_: ends.append(True))
    window = Window(0, 3)
    try:
        left = collect_window(
            model, PROMPTS[:2], SETTINGS, window, keep_states=False, at_once=at_once
        )
        assert len(ends) == 2
        whole = collect_window(model, PROMPTS[:2], SETTINGS, window, at_once=at_once)
        assert len(ends) == 2 + 3
    finally:
        handle.remove()
    assert left.statistics.to_arrow().equals(whole.statistics.to_arrow())
