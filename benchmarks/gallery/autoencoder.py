"""The autoencoder of both denoisers: images of 64 x 64 pixels to 8 x 16 x 16 latents and back."""

import time

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from benchmarks.gallery.renderings import SIDE, Renderings
from benchmarks.gallery.schedule import cosine_rate
from conceptprune.studio.training import autoencoder as studio
from conceptprune.studio.training.autoencoder import slopes, to_pixels, to_uint8

NUM_LATENT_CHANNELS = 8
PEAK_RATE = 3e-3
WARM_UP = 100
PIXELS = 4 * SIDE * SIDE
"""Per batch: 16 crops of a quarter of an image each, or 4 images."""
CROP = SIDE // 2
CROPPED = 0.7
"""Share of the steps that see crops, of which a batch has more; the rest see whole images."""
DIVERGENCE = 5e-4


def build() -> AutoencoderKL:
    """The untrained autoencoder, of 0.66 M parameters."""
    return studio.build(NUM_LATENT_CHANNELS)


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """Errors in pixels and in their slopes; without the slopes, thin lines blur."""
    error = output - target
    edges = sum(
        (
            (ours - theirs).abs().mean()
            for ours, theirs in zip(slopes(output), slopes(target), strict=True)
        ),
        start=torch.zeros(()),
    )
    return error.abs().mean() + error.square().mean() + 0.2 * edges


def batch(images: Tensor, side: int) -> Tensor:
    """Random images, or random crops of `side` pixels at multiples of 8, as pixels."""
    count = PIXELS // side**2
    chosen = images[torch.randint(len(images), (count,))]
    if side < SIDE:
        row, column = (8 * torch.randint((SIDE - side) // 8 + 1, (2,))).tolist()
        chosen = chosen[:, row : row + side, column : column + side]
    return to_pixels(chosen).contiguous(memory_format=torch.channels_last)


def train(renderings: Renderings, num_steps: int) -> AutoencoderKL:
    """Train from a fixed seed; the scaling factor gives latents unit variance."""
    torch.manual_seed(0)
    images = torch.from_numpy(renderings.images)
    model = build().to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(model.parameters(), PEAK_RATE, (0.9, 0.98), weight_decay=1e-4)
    start, seen = time.monotonic(), 0.0
    for step in range(num_steps):
        for group in optimiser.param_groups:
            group["lr"] = cosine_rate(step, num_steps, PEAK_RATE, WARM_UP)
        target = batch(images, CROP if step < CROPPED * num_steps else SIDE)
        posterior = model.encode(target).latent_dist
        output = model.decode(posterior.sample()).sample
        divergence = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
        loss = reconstruction_loss(output, target) + DIVERGENCE * divergence
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        seen += (output - target).square().mean().item() / 50
        if step % 50 == 49:
            decibels = 10 * torch.tensor(4 / seen).log10().item()
            print(f"{step + 1} {time.monotonic() - start:.0f}s {decibels:.2f} dB", flush=True)
            seen = 0.0
    model.eval()
    means, deviations = encode(model, images[:: max(1, len(images) // 1000)])
    scale = 1 / (means.var() + deviations.square().mean()).sqrt().item()
    model.register_to_config(scaling_factor=scale)
    return model


@torch.no_grad()
def encode(model: AutoencoderKL, images: Tensor) -> tuple[Tensor, Tensor]:
    """Means and deviations of uint8 images' latents, float32 [n, channels, 16, 16], unscaled."""
    parts = [model.encode(to_pixels(part)).latent_dist for part in images.split(256)]
    return torch.cat([p.mean for p in parts]), torch.cat([p.std for p in parts])


@torch.no_grad()
def round_trip(model: AutoencoderKL, images: Tensor) -> Tensor:
    """uint8 images [n, h, w, 3] after encoding, to the mean, and decoding."""
    return torch.cat(
        [
            to_uint8(model.decode(model.encode(to_pixels(part)).latent_dist.mode()).sample)
            for part in images.split(256)
        ]
    )


def signal_to_noise(model: AutoencoderKL, images: Tensor) -> float:
    """Mean PSNR of round trips in dB."""
    error = (round_trip(model, images).float() - images.float()) / 255
    return float((-10 * error.square().mean((1, 2, 3)).log10()).mean())
