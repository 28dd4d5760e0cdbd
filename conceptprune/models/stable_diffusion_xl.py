"""Stable Diffusion XL: a UNet, two CLIP text encoders, and added pooled-text and size inputs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from conceptprune.errors import UserError
from conceptprune.models.base import Conditions
from conceptprune.models.components import read_json
from conceptprune.models.stable_diffusion import StableDiffusion

BASE_SIZES = 6
"""Size inputs of the UNet, in numbers: original size, crop and target size."""
REFINER_SIZES = 5
"""The same of a refiner: original size, crop and an aesthetic score."""


class StableDiffusionXL(StableDiffusion):
    """Stable Diffusion XL base models."""

    added_conditions = "text_time"
    # The encoder whose pooled state the UNet takes.
    needed_encoders = ("text_encoder_2",)

    @classmethod
    def check_configs(cls, folder: Path, index: Mapping[str, Any]) -> None:
        """See `DiffusionModel`; a refiner takes another number of size inputs than a base model."""
        super().check_configs(folder, index)
        unet = read_json(folder / cls.component / "config.json")
        pooled = read_json(folder / "text_encoder_2" / "config.json").get("projection_dim")
        wide = unet.get("projection_class_embeddings_input_dim")
        each = unet.get("addition_time_embed_dim")
        if isinstance(wide, int) and isinstance(each, int) and isinstance(pooled, int):
            sizes = (wide - pooled) / each
            refiner = index.get("requires_aesthetics_score") or sizes == REFINER_SIZES
            if refiner or sizes != BASE_SIZES:
                kind = "a refiner" if refiner else "no Stable Diffusion XL base model"
                raise UserError(
                    f"model: {folder / cls.component / 'config.json'}: "
                    f"projection_class_embeddings_input_dim is {wide}, which calls for {sizes:g} "
                    f"sizes of {each} beside the text where a base model has {BASE_SIZES}: {kind}; "
                    "erase from the base model"
                )

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
        """Conditions of the empty prompt, or zeros if the pipeline is configured that way."""
        empty = self.encode("")
        if not self.pipe.config.force_zeros_for_empty_prompt:
            return empty
        return {name: torch.zeros_like(tensor) for name, tensor in empty.items()}

    def predict(
        self, sample: Tensor, timestep: Tensor, conditions: Conditions, guidance: float
    ) -> Tensor:
        """See `DiffusionModel`; the size inputs say "this size, not cropped"."""
        size = [side * self.pipe.vae_scale_factor for side in self.latent_size]
        sizes = torch.tensor([[*size, 0, 0, *size]], dtype=sample.dtype)
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

    def unscaled(self, latents: Tensor) -> Tensor:
        """See `DiffusionModel`; per channel if the autoencoder has a mean and spread for each."""
        if (statistics := self._channels(latents)) is None:
            return super().unscaled(latents)
        mean, spread = statistics
        # In the same order as diffusers, since that decides the last bits.
        own: Tensor = latents * spread / self.pipe.vae.config.scaling_factor + mean
        return own

    def scaled(self, latents: Tensor) -> Tensor:
        """See `DiffusionModel`."""
        if (statistics := self._channels(latents)) is None:
            return super().scaled(latents)
        mean, spread = statistics
        return super().scaled(latents - mean) / spread

    def _channels(self, latents: Tensor) -> tuple[Tensor, Tensor] | None:
        """(mean, standard deviation) [1, C, 1, 1] of the latents' channels."""
        config = self.pipe.vae.config
        mean, spread = config.get("latents_mean"), config.get("latents_std")
        if mean is None or spread is None:
            return None
        return (
            torch.tensor(mean).view(1, -1, 1, 1).to(latents),
            torch.tensor(spread).view(1, -1, 1, 1).to(latents),
        )
