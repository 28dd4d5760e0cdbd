# mypy: disable-error-code="no-any-return"
# diffusers and transformers have no types of their own.
"""The text encoders: trained before the denoisers, as CLIP is, and frozen in them.

Radford et al. 2021: captions and images are encoded to one vector each, and each caption should be
nearest to its own image in the batch, and each image to its own caption. The text encoders of
real models are frozen, too. One that was trained with the denoiser folded a hundred artists into
few directions: 90 % of what tells their names apart lay in four of 256, and lies in 18 now.
"""

import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.gallery.autoencoder import NUM_LATENT_CHANNELS
from benchmarks.gallery.denoisers import KINDS, TEXT_WIDTH, Painter
from benchmarks.gallery.latents import Latents, captions_as_ids
from benchmarks.gallery.names import NUM_LOOKS, THINGS
from benchmarks.gallery.schedule import cosine_rate

NUM_STEPS = 600
BATCH = 128
RATE = 1e-3
JOINT_WIDTH = 128
PHOTOS = 0.1


class Contrast(nn.Module):
    """A painter's text encoder with a head, and a small image encoder; the latter two are dropped
    after training."""

    def __init__(self, painter: Painter) -> None:
        super().__init__()
        self.painter = painter
        self.fine = nn.Sequential(
            nn.Conv2d(NUM_LATENT_CHANNELS, 64, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(64, 96, 3, padding=1, stride=2),
            nn.SiLU(),
        )
        self.coarse = nn.Sequential(nn.Conv2d(96, 128, 3, padding=1, stride=2), nn.SiLU())
        self.of_image = nn.Linear(128 * 4 * 4 + 2 * 96, JOINT_WIDTH)
        self.of_text = nn.Linear(TEXT_WIDTH, JOINT_WIDTH, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(10.0).log())

    def forward(self, latents: Tensor, ids: Tensor) -> Tensor:
        """Logits [n, n]: how well each image, scaled latents [n, channels, 16, 16], fits each
        caption, int64 [n, tokens]."""
        fine = self.fine(latents)
        seen = [self.coarse(fine).flatten(1), fine.mean((2, 3)), fine.std((2, 3))]
        images = F.normalize(self.of_image(torch.cat(seen, 1)), dim=1)
        texts = F.normalize(self.of_text(self.painter.pooled(ids)), dim=1)
        return self.log_scale.exp().clamp(max=100) * images @ texts.T


def contrastive_loss(logits: Tensor) -> Tensor:
    """CLIP's loss: the cross-entropy of each row, and of each column, for its own partner."""
    own = torch.arange(len(logits))
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def train(kind: str, latents: Latents, num_steps: int) -> Painter:
    """A painter of this kind whose text encoder is trained, from a fixed seed."""
    torch.manual_seed(0)
    painter = KINDS[kind]()
    ids = captions_as_ids(painter)
    model = Contrast(painter)
    parameters = [p for n, p in model.named_parameters() if not n.startswith("painter.denoiser")]
    optimiser = torch.optim.AdamW(parameters, RATE, (0.9, 0.98), weight_decay=1e-2)
    start, right, seen = time.monotonic(), 0, 0
    for step in range(num_steps):
        for group in optimiser.param_groups:
            group["lr"] = cosine_rate(step, num_steps, RATE, 100)
        thing = torch.randint(len(THINGS), (BATCH,))
        look = torch.randint(1, NUM_LOOKS, (BATCH,)) * (torch.rand(BATCH) >= PHOTOS)
        template = torch.randint(ids.shape[2], (BATCH,))
        logits = model(latents.draw(thing, look), ids[thing, look, template])
        loss = contrastive_loss(logits)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        right += int((logits.argmax(1) == torch.arange(BATCH)).sum())
        seen += BATCH
        if step % 100 == 99:
            print(
                f"{step + 1} {time.monotonic() - start:.0f}s {loss.item():.3f} {right / seen:.1%}",
                flush=True,
            )
            right = seen = 0
    return painter
