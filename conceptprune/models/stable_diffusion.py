"""Stable Diffusion 1.x and 2.x: a UNet and one CLIP text encoder; noise or v-prediction."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from conceptprune.errors import UserError
from conceptprune.models.base import Conditions, DiffusionModel
from conceptprune.models.branches import before_the_text


class StableDiffusion(DiffusionModel):
    """Stable Diffusion 1.x and 2.x; the scheduler knows what the denoiser predicts."""

    component = "unet"
    added_conditions: ClassVar[str | None] = None
    """The UNet's inputs besides prompt and timestep, by their name in its config."""

    def __init__(self, pipe: Any, *, resolution: int | None = None) -> None:
        """See `DiffusionModel`.

        Raises:
            UserError: the UNet needs inputs that this pipeline does not provide (see
            `check_denoiser`).
        """
        super().__init__(pipe, resolution=resolution)
        self.check_denoiser(self.config, Path(self.component, "config.json"))

    @classmethod
    def check_denoiser(cls, config: Mapping[str, Any], path: Path) -> None:
        """See `DiffusionModel`."""
        if config.get("time_cond_proj_dim") is not None:
            raise UserError(
                f"model: {path}: time_cond_proj_dim is {config['time_cond_proj_dim']}, a UNet that "
                "embeds its guidance (a latent consistency model), which is not supported; erase "
                "from the model it was distilled from"
            )
        for field in ("class_embed_type", "num_class_embeds", "encoder_hid_dim_type"):
            if config.get(field) is not None:
                raise UserError(
                    f"model: {path}: {field} is {config[field]}: the UNet needs a condition that a "
                    "text-to-image pipeline does not give it (an upscaler's or an image's); erase "
                    "from the text-to-image model"
                )
        added = config.get("addition_embed_type")
        if added != cls.added_conditions:
            raise UserError(
                f"model: {path}: addition_embed_type is {added}, and must be "
                f"{cls.added_conditions} for the pipeline that model_index.json names: the UNet is "
                "of another kind of model"
            )

    def before_the_text(self) -> list[nn.Module]:
        """See `DiffusionModel`; added conditions come of the text, and reach every block."""
        return before_the_text(self.denoiser) if self.added_conditions is None else []

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
