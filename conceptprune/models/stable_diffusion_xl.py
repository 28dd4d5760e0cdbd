"""Stable Diffusion XL: a UNet, two CLIP text encoders, and added conditions of text and size."""

from typing import Any

import torch
from torch import Tensor

from conceptprune.models.base import Conditions
from conceptprune.models.stable_diffusion import StableDiffusion


class StableDiffusionXL(StableDiffusion):
    """Stable Diffusion XL base models."""

    def __init__(self, pipe: Any, *, resolution: int | None = None) -> None:
        """See `StableDiffusion`; a decoder that overflows in float16 is moved to float32."""
        super().__init__(pipe, resolution=resolution)
        if pipe.vae.dtype == torch.float16 and pipe.vae.config.force_upcast:
            pipe.vae.to(torch.float32)

    def encode_prompt(self, text: str) -> Conditions:
        """Both encoders' states side by side, and the second one's pooled state."""
        states, _, pooled, _ = self.pipe.encode_prompt(
            text, device=self.device, do_classifier_free_guidance=False
        )
        return {
            "encoder_hidden_states": states.to(self.dtype),
            "text_embeds": pooled.to(self.dtype),
        }

    def encode_unconditional(self) -> Conditions:
        """Of the empty prompt, or zeros where the pipeline is configured so."""
        empty = self.encode("")
        if not self.pipe.config.force_zeros_for_empty_prompt:
            return empty
        return {name: torch.zeros_like(tensor) for name, tensor in empty.items()}

    def predict(
        self, sample: Tensor, timestep: Tensor, conditions: Conditions, guidance: float
    ) -> Tensor:
        """See `DiffusionModel`; the picture is said to be of its own size, and not cropped."""
        side = self.latent_side * self.pipe.vae_scale_factor
        sizes = torch.tensor([[side, side, 0, 0, side, side]], dtype=sample.dtype)
        added = {
            "text_embeds": conditions["text_embeds"],
            "time_ids": sizes.to(sample.device).expand(len(sample), -1),
        }
        prediction: Tensor = self.denoiser(
            sample,
            timestep,
            encoder_hidden_states=conditions["encoder_hidden_states"],
            added_cond_kwargs=added,
            return_dict=False,
        )[0]
        return prediction
