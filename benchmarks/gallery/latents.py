"""The encoded renderings and captions that the text encoders and the denoisers are trained on."""

from itertools import product
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.gallery.autoencoder import encode
from benchmarks.gallery.captions import caption
from benchmarks.gallery.denoisers import Painter
from benchmarks.gallery.names import NUM_LOOKS, THINGS
from benchmarks.gallery.renderings import Renderings
from conceptprune.studio.training.captions import NUM_TEMPLATES


class Latents:
    """The encoded images, sampled by thing and look."""

    def __init__(self, means: Tensor, deviations: Tensor, renderings: Renderings) -> None:
        self.means, self.deviations = means, deviations
        label = torch.from_numpy(renderings.thing * NUM_LOOKS + renderings.look)
        self.order = label.argsort(stable=True)
        self.counts = torch.bincount(label, minlength=len(THINGS) * NUM_LOOKS)
        self.first = self.counts.cumsum(0) - self.counts

    @classmethod
    def of(
        cls, autoencoder: AutoencoderKL, renderings: Renderings, cache: Path | None = None
    ) -> "Latents":
        """Encode and scale, or read what an earlier run left in `cache`."""
        if cache is not None and cache.exists():
            kept = load_file(cache)
            return cls(kept["means"], kept["deviations"], renderings)
        parts = encode(autoencoder, torch.from_numpy(renderings.images))
        scale = autoencoder.config.scaling_factor
        means, deviations = (part.contiguous() * scale for part in parts)
        if cache is not None:
            partial = cache.with_suffix(".partial")
            save_file({"means": means, "deviations": deviations}, partial)
            partial.replace(cache)
        return cls(means, deviations, renderings)

    def draw(self, thing: Tensor, look: Tensor) -> Tensor:
        """A latent of each thing in each look, from the posterior of a random rendering."""
        label = thing * NUM_LOOKS + look
        number = (torch.rand(len(label)) * self.counts[label]).long()
        index = self.order[self.first[label] + number]
        return self.means[index] + self.deviations[index] * torch.randn_like(self.means[index])


def captions_as_ids(painter: Painter) -> Tensor:
    """All captions as token ids, int64 [things, looks, templates, tokens]."""
    shape = (len(THINGS), NUM_LOOKS, NUM_TEMPLATES)
    texts = [
        caption(thing, look, template) for thing, look, template in product(*map(range, shape))
    ]
    return torch.tensor(painter.tokens_of(texts)).view(*shape, -1)
