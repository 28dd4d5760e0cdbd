"""A small classifier that says which thing an image shows and in whose style."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.gallery.names import NUM_LOOKS, THINGS
from conceptprune.studio.judge import conv
from conceptprune.studio.training.autoencoder import to_pixels

WEIGHTS = Path(__file__).parent / "models" / "judge" / "model.safetensors"
BATCH = 256


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What the judge saw, int64 [n]: `thing` indexes THINGS; `look` is 0 for a photo, or i + 1."""

    thing: NDArray[np.int64]
    look: NDArray[np.int64]


class Judge(nn.Module):
    """Two heads on one trunk; the look's head also sees finer, earlier features."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(conv(3, 32, 2), conv(32, 64, 2), conv(64, 96, 1))
        self.coarse = nn.Sequential(conv(96, 128, 2), conv(128, 128, 2))
        self.thing_head = nn.Sequential(
            nn.Flatten(), nn.Dropout(0.2), nn.Linear(128 * 4 * 4, len(THINGS))
        )
        self.look_head = nn.Linear(128 + 2 * 96, NUM_LOOKS)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits for thing and look of images float32 [n, 3, 64, 64] in -1..1."""
        fine = self.fine(pixels)
        coarse = self.coarse(fine)
        pooled = [coarse.mean((2, 3)), fine.mean((2, 3)), fine.std((2, 3))]
        return self.thing_head(coarse), self.look_head(torch.cat(pooled, 1))

    @classmethod
    def load(cls, path: Path = WEIGHTS) -> Self:
        """The shipped judge, or one saved elsewhere."""
        judge = cls()
        judge.load_state_dict({name: t.float() for name, t in load_file(path).items()})
        return judge.eval()

    @torch.no_grad()
    def verdicts(self, images: NDArray[np.uint8]) -> Verdicts:
        """Judge images uint8 [n, 64, 64, 3]."""
        things, looks = [], []
        for start in range(0, len(images), BATCH):
            piece = np.ascontiguousarray(images[start : start + BATCH])
            thing, look = self(to_pixels(torch.from_numpy(piece)))
            things.append(thing.argmax(1).numpy())
            looks.append(look.argmax(1).numpy())
        none = np.zeros(0, np.int64)
        return Verdicts(np.concatenate([none, *things]), np.concatenate([none, *looks]))
