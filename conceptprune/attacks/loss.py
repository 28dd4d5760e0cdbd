"""The training loss of a diffusion model, as a function of its conditions."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from conceptprune.errors import UserError
from conceptprune.models.base import Conditions, DiffusionModel


def diffusion_loss(
    model: DiffusionModel,
    latents: Tensor,
    noise: Tensor,
    timestep: int,
    conditions: Conditions,
) -> Tensor:
    """Mean squared error of the prediction for noised `latents` [n, C, h, w]; a scalar.

    `noise` has their shape, `conditions` are [n, ...] each. Noise is added as in DDPM (variance
    preserving; Ho et al. 2020, eq. 4). The target is the noise, or the velocity (Salimans and Ho
    2022) if the scheduler uses v_prediction. No guidance, as in training.

    Raises:
        UserError: a scheduler without alphas_cumprod (flow matching), or another target.
    """
    alphas = getattr(model.scheduler, "alphas_cumprod", None)
    kind = getattr(model.scheduler.config, "prediction_type", "epsilon")
    if alphas is None or kind not in ("epsilon", "v_prediction"):
        raise UserError(
            f"white-box attacks need a model that predicts noise or velocity; the scheduler "
            f"{type(model.scheduler).__name__} says {kind if alphas is not None else 'flow'}"
        )
    signal, spread = alphas[timestep].sqrt().item(), (1 - alphas[timestep]).sqrt().item()
    noised = signal * latents + spread * noise
    target = noise if kind == "epsilon" else signal * noise - spread * latents
    at = torch.tensor(timestep, device=model.device)
    prediction = model.predict(noised, at, conditions, 1.0)
    # At least float32: squares of half-precision numbers underflow.
    wide = torch.promote_types(prediction.dtype, torch.float32)
    loss: Tensor = (prediction.to(wide) - target.to(wide)).square().mean()
    return loss


@torch.no_grad()
def latents_of(model: DiffusionModel, images: Tensor) -> Tensor:
    """Scaled latents [n, C, h, w] of images [n, height, width, 3] uint8: the encoder's mean."""
    vae = model.pipe.vae
    pixels = images.to(model.device).permute(0, 3, 1, 2).to(vae.dtype) / 127.5 - 1
    mean: Tensor = vae.encode(pixels).latent_dist.mean
    return model.scaled(mean).to(model.dtype)


@contextmanager
def frozen(model: DiffusionModel) -> Iterator[None]:
    """Inside the context, only the attacked input needs a gradient, no weight does."""
    asked = [
        parameter
        for module in model.pipe.components.values()
        if isinstance(module, nn.Module)
        for parameter in module.parameters()
        if parameter.requires_grad
    ]
    for parameter in asked:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asked:
            parameter.requires_grad_(True)
