"""What tests look at in an exported checkpoint."""

import json
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from conceptprune.masks.mask import PruningMask
from conceptprune.units.results import read_mask
from tests.pipelines.conftest import TinyStore


def mask_of(tiny: TinyStore, name: str) -> PruningMask:
    (plan,) = [plan for plan in tiny.plan.concepts if plan.concept.name == name]
    return read_mask(tiny.store, plan.mask.key)


def image(pipe: StableDiffusionPipeline) -> Tensor:
    pipe.set_progress_bar_config(disable=True)
    output = pipe(
        "a cat in the style of Ada Bell",
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(5),
        output_type="np",
    )
    return torch.from_numpy(output.images)


def aligned(pipe: StableDiffusionPipeline) -> StableDiffusionPipeline:
    # Weights are used where the file lies in memory, at any address, and the CPU's kernels round
    # differently on addresses that are not a multiple of 64.
    for module in (pipe.unet, pipe.text_encoder, pipe.vae):
        for parameter in module.parameters():
            parameter.data = parameter.data.clone()
    return pipe


def only_safetensors(folder: Path) -> Path:
    (path,) = folder.glob("*.safetensors")
    return path


def metadata(folder: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads((folder / "conceptprune.json").read_text())
    return content
