"""Images are those of diffusers' own pipeline: for its schedulers, and for its autoencoders."""

import warnings
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import is_torchsde_available

from conceptprune.collection.collect import Window, collect, collect_window
from conceptprune.collection.statistics import join_calls
from conceptprune.errors import UserError
from conceptprune.manifest import Collection
from conceptprune.models.base import DiffusionModel
from conceptprune.models.families import FAMILIES
from conceptprune.models.prompt import Prompt
from conceptprune.models.schedulers import check_repeatable
from conceptprune.models.trajectory import TrajectoryState
from tests.support.tiny_models import NOISE, TINY_MODELS

pytestmark = pytest.mark.slow

TINY = {tiny.name: tiny for tiny in TINY_MODELS}
PROMPTS = [Prompt(text="a photo of a cat", seed=3), Prompt(text="a house in a style", seed=4)]
STEPS = 4
GUIDANCE = 5.0

V_PREDICTION = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
KARRAS = {"use_karras_sigmas": True}
EDM = {"sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5}
SCHEDULERS: list[tuple[str, dict[str, Any]]] = [
    ("DDIMScheduler", {**V_PREDICTION, "timestep_spacing": "trailing"}),
    ("DDIMParallelScheduler", {}),
    ("DDPMScheduler", {}),
    ("DDPMParallelScheduler", {}),
    ("DEISMultistepScheduler", {}),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True},
    ),
    ("DPMSolverSinglestepScheduler", {}),
    ("EulerAncestralDiscreteScheduler", {}),
    ("EulerDiscreteScheduler", {**V_PREDICTION, "timestep_spacing": "trailing"}),
    ("HeunDiscreteScheduler", {}),
    ("IPNDMScheduler", {}),
    ("KDPM2AncestralDiscreteScheduler", {}),
    ("KDPM2DiscreteScheduler", {}),
    ("LCMScheduler", {}),
    ("LMSDiscreteScheduler", {}),
    ("PNDMScheduler", {}),
    ("PNDMScheduler", {"skip_prk_steps": True, "steps_offset": 1}),
    ("SASolverScheduler", {}),
    ("TCDScheduler", {}),
    ("UniPCMultistepScheduler", {}),
    ("EDMEulerScheduler", EDM),
    ("EDMDPMSolverMultistepScheduler", EDM),
]
SDE: list[tuple[str, dict[str, Any]]] = [
    ("DPMSolverSDEScheduler", {}),
    ("DPMSolverSDEScheduler", {"noise_sampler_seed": 7}),
    ("CosineDPMSolverMultistepScheduler", {}),
]
"""Solvers with Brownian trees, which torchsde makes."""


def scheduler(name: str, config: dict[str, Any]) -> Any:
    noise = {} if name.startswith(("EDM", "Cosine", "IPNDM")) else NOISE
    return getattr(diffusers, name)(**noise, **config)


def with_scheduler(pipe: DiffusionPipeline, name: str, config: dict[str, Any]) -> DiffusionPipeline:
    pipe.register_modules(scheduler=scheduler(name, config))
    return pipe


def theirs(pipe: DiffusionPipeline, prompt: Prompt = PROMPTS[0], **call: Any) -> np.ndarray:
    images: np.ndarray = pipe(
        prompt.text,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        generator=torch.Generator().manual_seed(prompt.seed),
        output_type="np",
        **call,
    ).images
    return images[0]


def ours(pipe: DiffusionPipeline, **how: Any) -> np.ndarray:
    model = FAMILIES[type(pipe).__name__](pipe, **how)
    return model.generate(PROMPTS, steps=STEPS, guidance=GUIDANCE).numpy() / 255


@pytest.fixture(scope="module")
def pipe() -> DiffusionPipeline:
    return TINY["sd2"].pipeline()


def ids(value: Any) -> str:
    return value if isinstance(value, str) else ",".join(map(str, value))


@pytest.mark.parametrize(("name", "config"), SCHEDULERS, ids=ids)
def test_every_scheduler_generates_what_it_generates_in_diffusers(
    pipe: DiffusionPipeline, name: str, config: dict[str, Any]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = theirs(with_scheduler(pipe, name, config))
        # In a batch of two, so that nothing a prompt sees depends on those beside it.
        generated = ours(with_scheduler(pipe, name, config))
    np.testing.assert_allclose(generated[0], expected, atol=2 / 255)


def check_seeded(model: DiffusionModel, other: DiffusionModel) -> None:
    """The same every time, whatever the random state, the batch and the windows."""
    settings = Collection(steps=STEPS, tau=3, guidance=GUIDANCE, batch_size=2)
    torch.manual_seed(1)
    whole = collect(model, PROMPTS, settings).to_arrow()
    torch.manual_seed(2)
    windows, states = [], None
    for start in range(3):
        result = collect_window(other, PROMPTS, settings, Window(start, start + 1), states)
        windows.append(result.statistics)
        states = [TrajectoryState.from_bytes(state.to_bytes()) for state in result.states]
    assert join_calls(windows).to_arrow().equals(whole)
    together = model.generate(PROMPTS, steps=STEPS, guidance=GUIDANCE)
    alone = model.generate(PROMPTS[1:], steps=STEPS, guidance=GUIDANCE)
    np.testing.assert_allclose(together[1:] / 255, alone / 255, atol=2 / 255)
    # Each prompt has noise of its own.
    assert (together[0].int() - together[1].int()).abs().max() > 2


@pytest.mark.skipif(not is_torchsde_available(), reason="needs torchsde")
@pytest.mark.parametrize(("name", "config"), SDE, ids=ids)
def test_brownian_trees_grow_from_the_prompts_seeds(name: str, config: dict[str, Any]) -> None:
    models = [
        FAMILIES["StableDiffusionPipeline"](with_scheduler(TINY["sd2"].pipeline(), name, config))
        for _ in range(2)
    ]
    check_seeded(*models)


@pytest.mark.skipif(not is_torchsde_available(), reason="needs torchsde")
def test_a_seed_in_the_schedulers_config_gives_what_it_gives_in_diffusers(
    pipe: DiffusionPipeline,
) -> None:
    config = {"noise_sampler_seed": 7}
    expected = theirs(with_scheduler(pipe, "DPMSolverSDEScheduler", config))
    generated = ours(with_scheduler(pipe, "DPMSolverSDEScheduler", config))
    np.testing.assert_allclose(generated[0], expected, atol=2 / 255)


@pytest.mark.parametrize("name", ["TCDScheduler", "EulerAncestralDiscreteScheduler"])
def test_noise_between_steps_is_the_prompts_own(name: str) -> None:
    models = [
        FAMILIES["StableDiffusionPipeline"](with_scheduler(TINY["sd2"].pipeline(), name, {}))
        for _ in range(2)
    ]
    check_seeded(*models)


CHANNELS = {"latents_mean": [-1.6, 1.9, -1.4, 2.5], "latents_std": [8.5, 5.9, 6.5, 5.2]}


SHIFT: dict[str, Any] = {"scaling_factor": 0.5, "shift_factor": 0.3}
ALL_SETTINGS: dict[str, Any] = {**CHANNELS, "shift_factor": 0.3}


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("sd2", CHANNELS),
        ("sd2", SHIFT),
        *((name, ALL_SETTINGS) for name in ("sd2", "sdxl", "sd3", "flux-dev", "pixart-sigma")),
    ],
    ids=ids,
)
def test_every_setting_of_an_autoencoder_means_what_it_means_in_diffusers(
    name: str, config: dict[str, Any]
) -> None:
    tiny = TINY[name]
    pipe = tiny.pipeline()
    pipe.vae.register_to_config(**{"shift_factor": pipe.vae.config.shift_factor, **config})
    expected = theirs(pipe, **tiny.call)
    generated = ours(pipe, resolution=tiny.resolution)
    np.testing.assert_allclose(generated[0], expected, atol=2 / 255)


def test_the_tiny_autoencoder_generates_what_it_generates_in_diffusers() -> None:
    pipe = TINY["sd2"].pipeline()
    torch.manual_seed(0)
    pipe.register_modules(
        vae=diffusers.AutoencoderTiny(
            encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4
        ).eval()
    )
    np.testing.assert_allclose(ours(pipe)[0], theirs(pipe), atol=2 / 255)


@pytest.mark.parametrize("name", ["sd2", "sdxl"])
def test_a_model_of_images_that_are_not_square_generates_them_so(name: str) -> None:
    pipe = TINY[name].pipeline()
    height, width = 8, 12
    expected = theirs(pipe, height=8 * height, width=8 * width)
    pipe.unet.register_to_config(sample_size=[height, width])
    generated = ours(pipe)
    assert generated.shape[1:3] == (8 * height, 8 * width)
    np.testing.assert_allclose(generated[0], expected, atol=2 / 255)


class Restless(diffusers.DDIMScheduler):
    """With noise that comes from nowhere."""

    def step(self, *args: Any, **kwargs: Any) -> Any:
        sample, *rest = super().step(*args, **kwargs)
        return (sample + torch.randn(sample.shape), *rest)


def test_a_scheduler_with_noise_that_no_seed_decides_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    TINY["sd2"].pipeline().save_pretrained(tmp_path)
    check_repeatable(tmp_path, None, STEPS)
    monkeypatch.setattr(diffusers, "Restless", Restless, raising=False)
    with pytest.raises(UserError, match="Restless samples noise that no seed controls"):
        check_repeatable(tmp_path, "Restless", STEPS)
    with pytest.raises(UserError, match=r"NoSuch cannot be used: diffusers .* no such scheduler"):
        check_repeatable(tmp_path, "NoSuch", STEPS)
