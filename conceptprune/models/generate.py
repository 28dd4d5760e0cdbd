"""Images of prompts, generated in batches."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from conceptprune.models.base import DiffusionModel
from conceptprune.models.prompt import Prompt

Images = NDArray[np.uint8]


@torch.no_grad()
def generate(
    model: DiffusionModel,
    prompts: Sequence[Prompt],
    *,
    steps: int,
    guidance: float,
    batch_size: int,
    at_once: int | None = None,
) -> Images:
    """Images [n, height, width, 3] uint8 of the prompts, each from its own seed.

    `at_once` prompts of a batch go through the denoiser and decoder together; by default, all.
    """
    parts = []
    for batch in model.batches(prompts, batch_size, guidance):
        parts.append(model.generate(batch, steps=steps, guidance=guidance, at_once=at_once))
    images: Images = torch.cat(parts).numpy()
    return images
