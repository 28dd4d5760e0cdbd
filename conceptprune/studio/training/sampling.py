"""Images from prompts, and what the feed-forwards did while they were generated."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray
from torch import Tensor, nn

from conceptprune.studio.training import tokenizer as words
from conceptprune.studio.training.autoencoder import to_uint8
from conceptprune.studio.training.neurons import Neurons

NUM_STEPS = 20
GUIDANCE = 5.0
BATCH = 48


class Studio:
    """The shipped pipeline's parts, called directly so that a batch is one forward pass."""

    def __init__(self, folder: Path) -> None:
        self.pipeline = StableDiffusionPipeline.from_pretrained(
            folder, torch_dtype=torch.float32, safety_checker=None
        )
        self.unet = self.pipeline.unet.eval()
        self.sites: dict[str, nn.Linear] = dict(Neurons.sites(self.unet))

    @torch.no_grad()
    def embed(self, prompts: Iterable[str]) -> Tensor:
        """The text encoder's states [n, tokens, width]."""
        ids = [words.token_ids(self.pipeline.tokenizer, prompt) for prompt in prompts]
        return self.pipeline.text_encoder(torch.tensor(ids))[0]

    @torch.no_grad()
    def denoise(self, prompts: list[str], seeds: list[int], num_calls: int | None = None) -> Tensor:
        """Latents [n, 4, 16, 16] after the first `num_calls` calls, or all."""
        scheduler = self.pipeline.scheduler
        text = torch.cat([self.embed([""]).expand(len(prompts), -1, -1), self.embed(prompts)])
        latents = torch.cat(
            [torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(s)) for s in seeds]
        )
        scheduler.set_timesteps(NUM_STEPS)
        for time in scheduler.timesteps[:num_calls]:
            both = self.unet(torch.cat([latents] * 2), time, encoder_hidden_states=text).sample
            empty, asked = both.chunk(2)
            guided = empty + GUIDANCE * (asked - empty)
            latents = scheduler.step(guided, time, latents).prev_sample
        return latents

    @torch.no_grad()
    def generate(self, prompts: list[str], seeds: list[int]) -> NDArray[np.uint8]:
        """Images uint8 [n, 64, 64, 3]."""
        scale = self.pipeline.vae.config.scaling_factor
        pieces = []
        for start in range(0, len(prompts), BATCH):
            part = slice(start, start + BATCH)
            latents = self.denoise(prompts[part], seeds[part])
            pieces.append(to_uint8(self.pipeline.vae.decode(latents / scale).sample))
        return torch.cat(pieces).numpy()

    def energies(self, prompts: list[str], seeds: list[int], num_calls: int) -> dict[str, Tensor]:
        """Per site [calls, branches, prompts, neurons]: sums over tokens of squared, row-normalised
        activations; branch 0 is the empty prompt's, 1 the asked prompt's."""
        seen: dict[str, list[Tensor]] = {name: [] for name in self.sites}

        def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
            def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
                rows = nn.functional.normalize(args[0], dim=-1, eps=1e-12)
                seen[name].append(rows.square().sum(1).unflatten(0, (2, -1)))

            return hook

        handles = [m.register_forward_pre_hook(watch(n)) for n, m in self.sites.items()]
        self.denoise(prompts, seeds, num_calls)
        for handle in handles:
            handle.remove()
        return {name: torch.stack(calls) for name, calls in seen.items()}
