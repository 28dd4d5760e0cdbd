"""Images from a stock pipeline, at the settings that the model cards name."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, PixArtAlphaPipeline
from numpy.typing import NDArray

from benchmarks.gallery.denoisers import LATENT_SIDE
from conceptprune.studio.training.autoencoder import to_uint8
from conceptprune.studio.training.tokenizer import LENGTH

NUM_STEPS = 12
GUIDANCE = 2.0
BATCH = 32


def load(folder: Path) -> DiffusionPipeline:
    """The exported pipeline, in float32."""
    pipeline = DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def settings(pipeline: DiffusionPipeline) -> dict[str, Any]:
    """The arguments of a call besides prompts and noise."""
    both = {"num_inference_steps": NUM_STEPS, "guidance_scale": GUIDANCE}
    if isinstance(pipeline, PixArtAlphaPipeline):
        own = {"clean_caption": False, "use_resolution_binning": False}
        return both | own | {"max_sequence_length": LENGTH}
    return both


def noise(pipeline: DiffusionPipeline, seeds: list[int]) -> torch.Tensor:
    """Latents to start from: an image's noise depends on its own seed only."""
    shape = (1, pipeline.vae.config.latent_channels, LATENT_SIDE, LATENT_SIDE)
    return torch.cat([torch.randn(shape, generator=torch.manual_seed(seed)) for seed in seeds])


@torch.no_grad()
def generate(
    pipeline: DiffusionPipeline, prompts: list[str], seeds: list[int]
) -> NDArray[np.uint8]:
    """Images uint8 [n, 64, 64, 3], one for each prompt and seed."""
    pieces = []
    for start in range(0, len(prompts), BATCH):
        part = slice(start, start + BATCH)
        images = pipeline(
            prompts[part],
            latents=noise(pipeline, seeds[part]),
            output_type="pt",
            **settings(pipeline),
        ).images
        pieces.append(to_uint8(images * 2 - 1))
    return torch.cat(pieces).numpy()
