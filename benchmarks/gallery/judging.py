"""The judge's training, on its own renderings and their round trips through the autoencoder."""

import json

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from benchmarks.gallery.autoencoder import round_trip
from benchmarks.gallery.judge import Judge
from benchmarks.gallery.names import ARTISTS, THINGS
from benchmarks.gallery.renderings import Renderings
from benchmarks.gallery.schedule import cosine_rate
from conceptprune.studio.training.autoencoder import to_pixels
from conceptprune.studio.training.judging import disturb

BATCH = 64
RATE = 2e-3


def description() -> str:
    """`judge.json`: what the scorer `judge` must know of the network and its classes."""
    content = {
        "format": "conceptprune.judge/1",
        "side": 64,
        "fine": [[32, 2], [64, 2], [96, 1]],
        "coarse": [[128, 2], [128, 2]],
        "spread": True,
        "style": ["none", *(artist.name for artist in ARTISTS)],
        "object": list(THINGS),
    }
    return json.dumps(content, indent=1) + "\n"


def train(autoencoder: AutoencoderKL, renderings: Renderings, num_steps: int) -> Judge:
    """Train from a fixed seed."""
    torch.manual_seed(0)
    plain = torch.from_numpy(renderings.images)
    images = torch.cat([plain, round_trip(autoencoder, plain)])
    thing = torch.from_numpy(renderings.thing).repeat(2)
    look = torch.from_numpy(renderings.look).repeat(2)
    judge = Judge()
    optimiser = torch.optim.AdamW(judge.parameters(), RATE, weight_decay=1e-2)
    for step in range(num_steps):
        for group in optimiser.param_groups:
            group["lr"] = cosine_rate(step, num_steps, RATE, 20)
        index = torch.randint(len(images), (BATCH,))
        things, looks = judge(disturb(to_pixels(images[index])))
        loss = F.cross_entropy(things, thing[index], label_smoothing=0.05)
        loss = loss + F.cross_entropy(looks, look[index], label_smoothing=0.05)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 100 == 0:
            print(f"step {step} loss {loss:.3f}", flush=True)
    return judge.eval()


def accuracy(judge: Judge, autoencoder: AutoencoderKL, test: Renderings) -> dict[str, float]:
    """Accuracy on renderings never trained on, plain and after the autoencoder."""
    trip = round_trip(autoencoder, torch.from_numpy(test.images)).numpy()
    measured = {}
    for kind, images in (("renderings", test.images), ("round trips", trip)):
        seen = judge.verdicts(images)
        measured[f"things, {kind}"] = float(np.mean(seen.thing == test.thing))
        measured[f"looks, {kind}"] = float(np.mean(seen.look == test.look))
    return measured
