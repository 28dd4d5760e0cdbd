"""The autoencoder: 64 x 64 images to 4 x 16 x 16 latents and back."""

import math
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from conceptprune.studio.training.renderings import Renderings

BATCH = 16
PEAK_RATE = 2e-3
WARM_UP = 50
NUM_LATENT_CHANNELS = 4


def to_pixels(images: Tensor) -> Tensor:
    """uint8 [n, h, w, 3] to float [n, 3, h, w] in -1..1."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_uint8(pixels: Tensor) -> Tensor:
    """The reverse of `to_pixels`, with clamping."""
    return ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1)


def build(latent_channels: int = NUM_LATENT_CHANNELS) -> AutoencoderKL:
    """The untrained autoencoder, of 0.65 M parameters."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
    )


def slopes(image: Tensor) -> tuple[Tensor, Tensor]:
    """Differences between neighbours, across and down."""
    return image[..., 1:] - image[..., :-1], image[..., 1:, :] - image[..., :-1, :]


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """Pixels, and their slopes, without which fine lines blur."""
    error = output - target
    edges = sum(
        (
            (ours - theirs).abs().mean()
            for ours, theirs in zip(slopes(output), slopes(target), strict=True)
        ),
        start=torch.zeros(()),
    )
    return error.abs().mean() + 0.5 * (error**2).mean() + 0.3 * edges


def cosine_rate(step: int, num_steps: int, peak: float, warm_up: int) -> float:
    """Learning rate: linear warm-up under half a cosine."""
    return peak * min(1, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * step / num_steps))


def train(renderings: Renderings, num_steps: int, folder: Path) -> AutoencoderKL:
    """Train from a fixed seed and save; the saved scaling factor gives latents unit variance."""
    torch.manual_seed(0)
    images = torch.from_numpy(renderings.images)
    model = build()
    optimiser = torch.optim.AdamW(model.parameters(), PEAK_RATE, (0.9, 0.98), weight_decay=1e-4)
    start = time.monotonic()
    for step in range(num_steps):
        for group in optimiser.param_groups:
            group["lr"] = cosine_rate(step, num_steps, PEAK_RATE, WARM_UP) + 1e-5
        target = to_pixels(images[torch.randint(0, len(images), (BATCH,))])
        with torch.autocast("cpu", torch.bfloat16):
            posterior = model.encode(target).latent_dist
            output = model.decode(posterior.sample()).sample
        loss = reconstruction_loss(output.float(), target)
        loss = loss + 1e-3 * posterior.kl().mean() / posterior.mean[0].numel()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step % 50 == 0:
            print(f"step {step} {time.monotonic() - start:.0f}s loss {loss:.4f}", flush=True)
            model.save_pretrained(folder)
    model.eval()
    means, _ = encode(model, renderings)
    model.register_to_config(scaling_factor=1 / means.std().item())
    model.save_pretrained(folder)
    return model


@torch.no_grad()
def encode(model: AutoencoderKL, renderings: Renderings) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [n, 4, 16, 16] of each image's latent, unscaled."""
    means, deviations = [], []
    for images in torch.from_numpy(renderings.images).split(128):
        posterior = model.encode(to_pixels(images)).latent_dist
        means.append(posterior.mean)
        deviations.append(posterior.std)
    return torch.cat(means), torch.cat(deviations)


@torch.no_grad()
def round_trip(model: AutoencoderKL, images: Tensor) -> Tensor:
    """uint8 images [n, 64, 64, 3] through the latents and back."""
    pieces = [
        to_uint8(model.decode(model.encode(to_pixels(piece)).latent_dist.mode()).sample)
        for piece in images.split(128)
    ]
    return torch.cat(pieces)


def signal_to_noise(model: AutoencoderKL, renderings: Renderings) -> float:
    """Mean PSNR in dB of the round trip."""
    images = torch.from_numpy(renderings.images)
    error = (round_trip(model, images).float() - images.float()) / 255
    return float((-10 * (error**2).mean((1, 2, 3)).log10()).mean())
