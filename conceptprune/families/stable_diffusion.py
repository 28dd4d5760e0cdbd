"""Stable Diffusion 1.x / 2.x: UNet denoiser, one CLIP text encoder, classifier-free guidance.

diffusers and transformers take seconds to import and are imported where they are used: the many
short-lived workers that only reduce statistics or select masks do without.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from conceptprune.digest import digest_file, digest_json
from conceptprune.errors import UserError
from conceptprune.prompts import Prompt
from conceptprune.trajectory import Trajectory
from conceptprune.weights import checkpoint_files

COMPONENT = "unet"
"""The pipeline attribute that holds the denoiser."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guided:
    """A batch of B prompts under way: its trajectory and the text conditions of both halves."""

    trajectory: Trajectory
    conditions: Tensor
    """[H * B, tokens, dim]: unconditional half first (H = 2), or the prompts alone (H = 1)."""
    halves: int
    guidance: float


class StableDiffusion:
    """The denoising side of a Stable Diffusion pipeline, with the modules it was loaded with."""

    def __init__(
        self,
        *,
        unet: nn.Module,
        text_encoder: nn.Module,
        tokenizer: Any,
        scheduler: Any,
        vae: Any = None,
    ) -> None:
        """Any diffusers-like modules; `unet` and `vae` carry their diffusers `config`."""
        self.denoiser = unet.eval()
        self._unet_config: Any = unet.config
        self.text_encoder = text_encoder.eval()
        self.tokenizer = tokenizer
        self.scheduler = scheduler
        self.vae = vae

    @classmethod
    def from_pipeline(cls, pipe: Any) -> "StableDiffusion":
        """The same modules as `pipe` (nothing is copied)."""
        return cls(
            unet=pipe.unet,
            text_encoder=pipe.text_encoder,
            tokenizer=pipe.tokenizer,
            scheduler=pipe.scheduler,
            vae=pipe.vae,
        )

    @classmethod
    def load(
        cls,
        folder: Path | str,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        scheduler: str | None = None,
        with_decoder: bool = False,
    ) -> "StableDiffusion":
        """Load a `from_pretrained` folder; `scheduler` names another diffusers scheduler class.

        Raises:
            UserError: a component is missing or is not in safetensors files.
        """
        import diffusers
        import transformers

        folder = Path(folder)
        common: dict[str, Any] = {"use_safetensors": True, "local_files_only": True}
        try:
            unet = diffusers.UNet2DConditionModel.from_pretrained(
                folder / "unet", torch_dtype=dtype, **common
            )
            # transformers keeps a file's own dtype unless told; fp16 would not run on a CPU.
            text_encoder = transformers.CLIPTextModel.from_pretrained(
                folder / "text_encoder", dtype=dtype, **common
            )
            tokenizer = transformers.CLIPTokenizer.from_pretrained(
                folder / "tokenizer", local_files_only=True
            )
            vae = None
            if with_decoder:
                vae = diffusers.AutoencoderKL.from_pretrained(
                    folder / "vae", torch_dtype=dtype, **common
                )
                vae = vae.to(device).eval()
        except OSError as error:
            raise UserError(
                f"cannot load a Stable Diffusion model from {folder}: {error}"
            ) from error
        return cls(
            unet=unet.to(device),
            text_encoder=text_encoder.to(device),
            tokenizer=tokenizer,
            scheduler=load_scheduler(folder, scheduler),
            vae=vae,
        )

    @property
    def device(self) -> torch.device:
        """Where the denoiser's weights are."""
        return next(self.denoiser.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The denoiser's floating-point type."""
        return next(self.denoiser.parameters()).dtype

    @cached_property
    def _unconditional(self) -> Tensor:
        return self._encode_one("")

    @torch.no_grad()
    def _encode_one(self, text: str) -> Tensor:
        tokens = self.tokenizer(
            text,
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        mask = None
        if getattr(self.text_encoder.config, "use_attention_mask", False):
            mask = tokens.attention_mask.to(self.device)
        states: Tensor = self.text_encoder(tokens.input_ids.to(self.device), attention_mask=mask)[0]
        return states.to(self.dtype)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Text conditions [n, tokens, dim]; one text at a time, so that batching changes no bit."""
        return torch.cat([self._encode_one(text) for text in texts])

    def begin(self, prompts: Sequence[Prompt], *, steps: int, guidance: float) -> Guided:
        """Start a batch: noise from each prompt's own seed, drawn as diffusers pipelines do."""
        from diffusers.utils.torch_utils import randn_tensor

        channels = self._unet_config.in_channels
        size = self._unet_config.sample_size
        generators = [torch.Generator("cpu").manual_seed(prompt.seed) for prompt in prompts]
        noise = randn_tensor(
            (len(prompts), channels, size, size),
            generator=generators,
            device=self.device,
            dtype=self.dtype,
        )
        trajectory = Trajectory(
            scheduler=type(self.scheduler).from_config(self.scheduler.config),
            steps=steps,
            latents=noise,
            generators=generators,
        )
        conditions = self.encode([prompt.text for prompt in prompts])
        # As in diffusers: guidance of 1 or less runs the conditional half alone.
        halves = 2 if guidance > 1 else 1
        if halves == 2:
            unconditional = self._unconditional.expand(len(prompts), -1, -1)
            conditions = torch.cat([unconditional, conditions])
        return Guided(
            trajectory=trajectory, conditions=conditions, halves=halves, guidance=guidance
        )

    @torch.no_grad()
    def advance(self, batch: Guided, *, at_once: int | None = None) -> None:
        """One denoiser call on all halves of the batch, guidance, and the scheduler's step.

        `at_once` prompts go through the denoiser together (all of them by default): fewer take
        less memory, and may move the last bits.
        """
        trajectory = batch.trajectory
        # [halves, prompts, ...]: a slice of prompts takes its halves along.
        samples = trajectory.model_input().expand(batch.halves, *trajectory.latents.shape)
        conditions = batch.conditions.unflatten(0, (batch.halves, -1))
        num_prompts = samples.shape[1]
        size = at_once or num_prompts
        predictions = [
            self.denoiser(
                samples[:, first : first + size].flatten(0, 1),
                trajectory.timestep,
                encoder_hidden_states=conditions[:, first : first + size].flatten(0, 1),
                return_dict=False,
            )[0].unflatten(0, (batch.halves, -1))
            for first in range(0, num_prompts, size)
        ]
        prediction = torch.cat(predictions, dim=1)
        if batch.halves == 2:
            unconditional, conditional = prediction
            prediction = unconditional + batch.guidance * (conditional - unconditional)
        else:
            (prediction,) = prediction
        trajectory.advance(prediction)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images [n, height, width, 3] uint8 of final latents [n, C, h, w].

        Raises:
            ValueError: the model was loaded without its decoder.
        """
        if self.vae is None:
            raise ValueError("this model was loaded without its decoder: pass with_decoder=True")
        scaled = latents / self.vae.config.scaling_factor
        pictures = self.vae.decode(scaled, return_dict=False)[0]
        unit = (pictures.float() / 2 + 0.5).clamp(0, 1)
        images: Tensor = (unit * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu()
        return images


def load_scheduler(folder: Path, name: str | None = None) -> Any:
    """The folder's own scheduler, or the diffusers class `name` configured from it."""
    import diffusers

    own_name = diffusers.DDIMScheduler.load_config(folder / "scheduler")["_class_name"]
    return getattr(diffusers, name or own_name).from_pretrained(folder / "scheduler")


def identity(folder: Path | str) -> str:
    """Digest of the files that decide what the denoiser computes: weights, configs, tokenizer.

    Raises:
        UserError: the denoiser or the text encoder has no safetensors checkpoint.
    """
    folder = Path(folder)
    files = [
        path
        for part in ("text_encoder", "tokenizer", "scheduler", "unet")
        for path in sorted((folder / part).glob("*"))
        if path.suffix in {".json", ".txt"}
    ]
    files += checkpoint_files(folder / "unet") + checkpoint_files(folder / "text_encoder")
    return digest_json({path.relative_to(folder).as_posix(): digest_file(path) for path in files})
