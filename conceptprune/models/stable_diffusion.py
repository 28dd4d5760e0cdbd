"""Stable Diffusion 1.x and 2.x: a UNet and one CLIP text encoder; noise or v-prediction."""

from typing import Any

from torch import Tensor

from conceptprune.errors import UserError
from conceptprune.models.base import Conditions, DiffusionModel


class StableDiffusion(DiffusionModel):
    """Stable Diffusion 1.x and 2.x; what the denoiser predicts is the scheduler's business."""

    component = "unet"

    def __init__(self, pipe: Any, *, resolution: int | None = None) -> None:
        """See `DiffusionModel`.

        Raises:
            UserError: a UNet with its guidance distilled into it (a latent consistency model).
        """
        super().__init__(pipe, resolution=resolution)
        if self.config.get("time_cond_proj_dim") is not None:
            raise UserError(
                "model: a UNet that embeds its guidance (time_cond_proj_dim) is not supported; use "
                "the model it was distilled from"
            )

    def encode_prompt(self, text: str) -> Conditions:
        """The text encoder's last states [1, tokens, dim]."""
        states, _ = self.pipe.encode_prompt(
            text, self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return {"encoder_hidden_states": states.to(self.dtype)}

    def predict(
        self, sample: Tensor, timestep: Tensor, conditions: Conditions, guidance: float
    ) -> Tensor:
        """See `DiffusionModel`."""
        prediction: Tensor = self.denoiser(sample, timestep, **conditions, return_dict=False)[0]
        return prediction
