"""Memory that runs out: the batch is halved until it fits, and what is computed stays the same."""

import os

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from conceptprune.collection.collect import CollectionSettings, Window, collect, collect_window
from conceptprune.models.prompt import Prompt
from conceptprune.models.stable_diffusion import StableDiffusion
from conceptprune.units.batch_memory import BatchMemory

pytestmark = pytest.mark.slow

PROMPTS = [Prompt(text=f"a photo of a {thing}", seed=7) for thing in ("cat", "dog", "car", "tree")]
SETTINGS = CollectionSettings(steps=10, tau=2, batch_size=4)
MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def need_memory(pipe: StableDiffusionPipeline, *, prompts_that_fit: int) -> None:
    """Make the denoiser ask the real allocator for more than the machine has, beyond a number."""
    samples = 2 * prompts_that_fit

    def allocate(_module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if len(inputs[0]) > samples:
            torch.empty(64 * MACHINE, dtype=torch.uint8)

    pipe.unet.register_forward_pre_hook(allocate)


def test_a_batch_that_does_not_fit_is_halved_until_it_does(
    tiny_pipe: StableDiffusionPipeline,
) -> None:
    model = StableDiffusion.from_pipeline(tiny_pipe)
    whole = collect(model, PROMPTS, SETTINGS)
    need_memory(tiny_pipe, prompts_that_fit=1)
    memory = BatchMemory(SETTINGS.batch_size)
    tried = []
    for attempt in memory.attempts():
        with attempt as at_once:
            tried.append(at_once)
            result = collect_window(model, PROMPTS, SETTINGS, Window(0, 2), at_once=at_once)
    halved = result.statistics
    assert tried == [4, 2, 1]
    assert memory.at_once == 1
    for name, layer in whole.layers.items():
        assert halved.layers[name].num_rows == layer.num_rows
        np.testing.assert_allclose(halved.layers[name].sum_sq, layer.sum_sq, rtol=1e-4, atol=1e-7)


def test_a_single_prompt_that_does_not_fit_is_an_error(
    tiny_pipe: StableDiffusionPipeline,
) -> None:
    need_memory(tiny_pipe, prompts_that_fit=0)
    model = StableDiffusion.from_pipeline(tiny_pipe)

    def collect_what_fits() -> None:
        for attempt in BatchMemory(4).attempts():
            with attempt as at_once:
                collect_window(model, PROMPTS, SETTINGS, Window(0, 2), at_once=at_once)

    with pytest.raises(RuntimeError, match="allocate memory"):
        collect_what_fits()


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    tried = []

    def fail() -> None:
        for attempt in BatchMemory(4).attempts():
            with attempt as at_once:
                tried.append(at_once)
                raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        fail()
    assert tried == [4]
