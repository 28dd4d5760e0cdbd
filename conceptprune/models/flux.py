"""FLUX.1 dev and schnell: packed latents, embedded guidance or none, fused single-stream blocks."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from conceptprune.models.base import Conditions, DiffusionModel
from conceptprune.models.sites import TEXT_FFN, Site, sites

PACKED = 4
"""Latents are packed in patches of 2 x 2: four times the channels, at half the side."""
LATENT_SIDE = 128
"""FLUX.1's config gives no size; diffusers generates 1024 x 1024 pixels."""
SCHNELL_TOKENS = 256
"""schnell, which takes no guidance, was distilled with half of dev's 512 text tokens."""
TRAIN_TIMESTEPS = 1000


class Flux(DiffusionModel):
    """FLUX.1 dev and schnell: never a second branch; dev takes guidance as an input, schnell has
    none.

    The CLIP encoder may be missing; its pooled state is then zeros.
    """

    component = "transformer"
    flow_matching = True
    needed_encoders = ("text_encoder_2",)
    sites = sites(
        Site(
            name="ffn_out",
            # proj_out of a single-stream block takes the attention's output and the feed-forward's
            # activation side by side; only the columns of the latter belong to the site.
            pattern=r"(.*\.)?ff(_context)?\.net\.2|single_transformer_blocks\.\d+\.proj_out",
            fused=r"single_transformer_blocks\.\d+\.proj_out",
        ),
        Site(
            name="ffn_in",
            pattern=r"(.*\.)?ff(_context)?\.net\.0\.proj|single_transformer_blocks\.\d+\.proj_mlp",
        ),
        # The text stream of the double-stream blocks only: a single-stream block computes keys and
        # values of text and image together.
        Site(name="attn_key", pattern=r"(.*\.)?attn\.add_k_proj"),
        Site(name="attn_value", pattern=r"(.*\.)?attn\.add_v_proj"),
        TEXT_FFN,
    )

    @classmethod
    def num_branches(cls, guidance: float) -> int:
        """One: guidance is an input of the denoiser."""
        return 1

    @classmethod
    def default_size(cls, config: Mapping[str, Any]) -> tuple[int, int]:
        """See `DiffusionModel`."""
        return LATENT_SIDE, LATENT_SIDE

    @classmethod
    def latent_channels(cls, config: Mapping[str, Any]) -> int:
        """Before packing."""
        channels: int = config["in_channels"] // PACKED
        return channels

    def encode_prompt(self, text: str) -> Conditions:
        """The T5 encoder's states, and the CLIP encoder's pooled state."""
        more = {} if self.config["guidance_embeds"] else {"max_sequence_length": SCHNELL_TOKENS}
        if self.pipe.text_encoder is None:
            # diffusers generates without this encoder if its pooled state is given.
            states = self.pipe._get_t5_prompt_embeds(
                text, device=self.device, dtype=self.dtype, **more
            )
            pooled = torch.zeros(1, self.config["pooled_projection_dim"])
        else:
            states, pooled, _ = self.pipe.encode_prompt(text, device=self.device, **more)
        return {
            "encoder_hidden_states": states.to(self.dtype),
            "pooled_projections": pooled.to(self.device, self.dtype),
        }

    def noise(self, generators: list[torch.Generator]) -> Tensor:
        """Packed noise [B, side / 2 * side / 2, 4 * C]."""
        latents = super().noise(generators)
        packed: Tensor = self.pipe._pack_latents(latents, *latents.shape)
        return packed

    def schedule(self, steps: int) -> dict[str, Any]:
        """Evenly spaced noise levels, shifted for larger images."""
        from diffusers.pipelines.flux.pipeline_flux import calculate_shift

        config = self.scheduler.config
        mu = calculate_shift(
            prod(side // 2 for side in self.latent_size),
            config.get("base_image_seq_len", 256),
            config.get("max_image_seq_len", 4096),
            config.get("base_shift", 0.5),
            config.get("max_shift", 1.15),
        )
        return {"sigmas": np.linspace(1.0, 1 / steps, steps), "mu": mu}

    def predict(
        self, sample: Tensor, timestep: Tensor, conditions: Conditions, guidance: float
    ) -> Tensor:
        """See `DiffusionModel`."""
        height, width = (side // 2 for side in self.latent_size)
        tokens = conditions["encoder_hidden_states"].shape[1]
        embedded = None
        if self.config["guidance_embeds"]:
            embedded = torch.full([len(sample)], guidance, device=sample.device)
        prediction: Tensor = self.denoiser(
            hidden_states=sample,
            timestep=timestep.expand(len(sample)).to(sample.dtype) / TRAIN_TIMESTEPS,
            guidance=embedded,
            txt_ids=torch.zeros(tokens, 3, device=sample.device, dtype=sample.dtype),
            img_ids=self.pipe._prepare_latent_image_ids(
                len(sample), height, width, sample.device, sample.dtype
            ),
            **conditions,
            return_dict=False,
        )[0]
        return prediction

    def decode(
        self, latents: Tensor, generators: Sequence[torch.Generator] | None = None
    ) -> Tensor:
        """See `DiffusionModel`; `latents` are packed."""
        scale = self.pipe.vae_scale_factor
        size = (side * scale for side in self.latent_size)
        return super().decode(self.pipe._unpack_latents(latents, *size, scale), generators)

    def unscaled(self, latents: Tensor) -> Tensor:
        """See `DiffusionModel`; the autoencoder's latents are also shifted by a mean."""
        own: Tensor = super().unscaled(latents) + self.pipe.vae.config.shift_factor
        return own

    def scaled(self, latents: Tensor) -> Tensor:
        """See `DiffusionModel`."""
        return super().scaled(latents - self.pipe.vae.config.shift_factor)
