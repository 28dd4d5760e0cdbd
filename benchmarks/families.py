"""Each family on its own: collection over the bare loop; and, separately, loading and encoding.

The models are the families' tiny test configurations with wider denoisers, in which arithmetic
dominates; their text encoders stay tiny, so encoding measures the overhead around the encoders.
"""

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from benchmarks.overhead import paired
from benchmarks.results import Measurement
from conceptprune.manifest import Collection
from conceptprune.models.families import family_of
from conceptprune.models.prompt import Prompt
from conceptprune.models.settings import Offload
from conceptprune.studio.names import THINGS
from tests.support.tiny_models import TINY_MODELS, TinyModel

SIDE = 32
PIXELS = 8 * SIDE
UNET = {"sample_size": SIDE, "block_out_channels": (128, 256), "attention_head_dim": (4, 8)}
WIDER: Mapping[str, Mapping[str, Any]] = {
    "sd2": UNET,
    "sdxl": UNET,
    "sd3": {
        "sample_size": SIDE,
        "pos_embed_max_size": SIDE,
        "num_layers": 4,
        "attention_head_dim": 64,
        "num_attention_heads": 6,
        "caption_projection_dim": 384,
    },
    "flux-dev": {
        "num_layers": 2,
        "num_single_layers": 4,
        "attention_head_dim": 64,
        "num_attention_heads": 6,
        "axes_dims_rope": (16, 24, 24),
    },
    "pixart-sigma": {
        "sample_size": SIDE,
        "num_layers": 6,
        "attention_head_dim": 64,
        "num_attention_heads": 6,
        "cross_attention_dim": 384,
    },
}
"""How a tiny model's denoiser is made larger, by the tiny model's name."""
ENCODED = 32
MOST_OVERHEAD = 3


def run() -> list[Measurement]:
    """Every family."""
    measurements = []
    for name, config in WIDER.items():
        measurements += measure(name, config, repeats=5, at_most=MOST_OVERHEAD)
    return measurements


def run_minimal() -> list[Measurement]:
    """One family at its tiny size, to see that it runs."""
    return measure("pixart-sigma", {}, repeats=1, at_most=None)


def measure(
    name: str, config: Mapping[str, Any], *, repeats: int, at_most: float | None
) -> list[Measurement]:
    """One family: loading, encoding, and what collection adds."""
    with tempfile.TemporaryDirectory() as folder:
        save(name, config, Path(folder))
        family = family_of(folder)
        resolution = PIXELS if config else None
        started = time.perf_counter()
        # Encoders are freed as in a job.
        offload: Offload = "encoders"
        model = family.load(folder, resolution=resolution, offload=offload)
        loaded = time.perf_counter()
        model.encode_all(f"prompt {number}" for number in range(ENCODED))
        encoded = time.perf_counter()
        weights = sum(parameter.numel() for parameter in model.denoiser.parameters())
        overhead = paired(
            name,
            model,
            [Prompt(text=f"a photo of a {thing}", seed=0) for thing in THINGS[:2]],
            Collection(tau=2, batch_size=2),
            repeats=repeats,
            at_most=at_most,
        )
    return [
        overhead,
        Measurement(
            what=f"{name}: loading the model",
            value=loaded - started,
            unit="s",
            note=f"{weights / 1e6:.1f} M weights in the denoiser, files in the page cache",
        ),
        Measurement(
            what=f"{name}: encoding a prompt",
            value=1000 * (encoded - loaded) / ENCODED,
            unit="ms",
            note=f"mean of {ENCODED}, once each; not part of the loop",
        ),
    ]


def save(name: str, config: Mapping[str, Any], folder: Path) -> None:
    """Save a tiny model, its denoiser changed by `config`, as a `from_pretrained` folder."""
    pipe = widened(next(tiny for tiny in TINY_MODELS if tiny.name == name), config)
    pipe.save_pretrained(folder)


def widened(tiny: TinyModel, config: Mapping[str, Any]) -> DiffusionPipeline:
    """The tiny model's pipeline with another denoiser of its class."""
    pipe = tiny.pipeline()
    if not config:
        return pipe
    component = "unet" if hasattr(pipe, "unet") else "transformer"
    small = getattr(pipe, component)
    kept = {key: value for key, value in small.config.items() if not key.startswith("_")}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        wide = type(small)(**{**kept, **config})
    setattr(pipe, component, wide)
    return pipe
