"""PixArt-alpha and PixArt-Sigma: a transformer with cross-attention to a T5 encoder's states."""

import torch
from torch import Tensor

from conceptprune.models.base import Conditions, DiffusionModel


class PixArt(DiffusionModel):
    """PixArt-alpha and PixArt-Sigma."""

    component = "transformer"

    def encode_prompt(self, text: str) -> Conditions:
        """The T5 encoder's states, and the mask of those that are words.

        The caption is not cleaned of web addresses and the like, because the result would depend on
        which libraries are installed.
        """
        states, mask, _, _ = self.pipe.encode_prompt(
            text, do_classifier_free_guidance=False, device=self.device, clean_caption=False
        )
        return {"encoder_hidden_states": states.to(self.dtype), "encoder_attention_mask": mask}

    def prompt_states(self, conditions: Conditions) -> Tensor:
        """The caption's projection, which the denoiser recomputes at every call."""
        project = self.denoiser.get_submodule("caption_projection")
        projected: Tensor = project(conditions["encoder_hidden_states"])
        return projected

    def predict(
        self, sample: Tensor, timestep: Tensor, conditions: Conditions, guidance: float
    ) -> Tensor:
        """See `DiffusionModel`; a predicted variance is dropped, as diffusers does."""
        sizes: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
        if self.denoiser.use_additional_conditions:
            height, width = (side * self.pipe.vae_scale_factor for side in self.latent_size)
            sizes = {
                "resolution": torch.tensor([[height, width]]).to(sample).expand(len(sample), -1),
                "aspect_ratio": torch.full((len(sample), 1), height / width).to(sample),
            }
        prediction: Tensor = self.denoiser(
            sample,
            timestep=timestep.expand(len(sample)),
            added_cond_kwargs=sizes,
            **conditions,
            return_dict=False,
        )[0]
        if self.config["out_channels"] // 2 == self.config["in_channels"]:
            prediction = prediction.chunk(2, dim=1)[0]
        return prediction
