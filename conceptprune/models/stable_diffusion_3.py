"""Stable Diffusion 3 and 3.5: a two-stream transformer, three text encoders, flow matching."""

from math import prod
from typing import Any

from torch import Tensor

from conceptprune.models.base import Conditions, DiffusionModel
from conceptprune.models.sites import TEXT_FFN, Site, sites


class StableDiffusion3(DiffusionModel):
    """Stable Diffusion 3 and 3.5; the T5 encoder may be missing, as in diffusers."""

    component = "transformer"
    flow_matching = True
    needed_encoders = ("text_encoder", "text_encoder_2")
    # Image and text have separate feed-forwards; the last block has none for the text.
    sites = sites(
        Site(name="ffn_out", pattern=r"(.*\.)?ff(_context)?\.net\.2"),
        Site(name="ffn_in", pattern=r"(.*\.)?ff(_context)?\.net\.0\.proj"),
        # Keys and values of the text stream; they change from call to call.
        Site(name="attn_key", pattern=r"(.*\.)?attn\.add_k_proj"),
        Site(name="attn_value", pattern=r"(.*\.)?attn\.add_v_proj"),
        TEXT_FFN,
    )

    def encode_prompt(self, text: str) -> Conditions:
        """The CLIP encoders' states over the T5 encoder's, and the pooled state."""
        states, _, pooled, _ = self.pipe.encode_prompt(
            text, None, None, device=self.device, do_classifier_free_guidance=False
        )
        return {
            "encoder_hidden_states": states.to(self.dtype),
            "pooled_projections": pooled.to(self.dtype),
        }

    def schedule(self, steps: int) -> dict[str, Any]:
        """The shift for larger images, if the scheduler takes one."""
        from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import (
            calculate_shift,
        )

        config = self.scheduler.config
        if not config.get("use_dynamic_shifting"):
            return {}
        mu = calculate_shift(
            prod(side // self.config["patch_size"] for side in self.latent_size),
            config.get("base_image_seq_len", 256),
            config.get("max_image_seq_len", 4096),
            config.get("base_shift", 0.5),
            config.get("max_shift", 1.16),
        )
        return {"mu": mu}

    def predict(
        self, sample: Tensor, timestep: Tensor, conditions: Conditions, guidance: float
    ) -> Tensor:
        """See `DiffusionModel`."""
        prediction: Tensor = self.denoiser(
            hidden_states=sample,
            timestep=timestep.expand(len(sample)),
            **conditions,
            return_dict=False,
        )[0]
        return prediction

    def unscaled(self, latents: Tensor) -> Tensor:
        """See `DiffusionModel`; the autoencoder's latents are also shifted by a mean."""
        own: Tensor = super().unscaled(latents) + self.pipe.vae.config.shift_factor
        return own

    def scaled(self, latents: Tensor) -> Tensor:
        """See `DiffusionModel`."""
        return super().scaled(latents - self.pipe.vae.config.shift_factor)
