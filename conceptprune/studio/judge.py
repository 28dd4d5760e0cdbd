"""A small classifier that says which thing an image shows and in whose style."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from conceptprune.studio.names import LOOKS, THINGS

WEIGHTS = Path(__file__).parent / "judge" / "model.safetensors"
BATCH = 256


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What the judge saw: `thing` indexes THINGS; `artist` is 0 for a photo, else i + 1."""

    thing: NDArray[np.int64]
    artist: NDArray[np.int64]


def conv(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """A 3 x 3 convolution with batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


def save_half(network: nn.Module, path: Path) -> None:
    """Write a network's weights as float16 safetensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = {
        name: t.half() if t.is_floating_point() else t for name, t in network.state_dict().items()
    }
    save_file({name: t.contiguous() for name, t in half.items()}, path)


class Judge(nn.Module):
    """Two heads on one trunk; the artist head also sees finer, earlier features."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(conv(3, 24, 2), conv(24, 48, 2), conv(48, 64, 1), conv(64, 96, 2))
        self.coarse = conv(96, 128, 2)
        self.thing_head = nn.Sequential(
            nn.Flatten(), nn.Dropout(0.2), nn.Linear(128 * 4 * 4, len(THINGS))
        )
        self.artist_head = nn.Linear(128 + 96, len(LOOKS))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits for thing and artist of images [n, 3, 64, 64] in -1..1."""
        fine = self.fine(pixels)
        coarse = self.coarse(fine)
        pooled = torch.cat([coarse.mean((2, 3)), fine.mean((2, 3))], 1)
        return self.thing_head(coarse), self.artist_head(pooled)

    @classmethod
    def load(cls, path: Path = WEIGHTS) -> Self:
        """The shipped judge, or one saved elsewhere."""
        judge = cls()
        judge.load_state_dict({name: t.float() for name, t in load_file(path).items()})
        return judge.eval()

    @torch.no_grad()
    def verdicts(self, images: NDArray[np.uint8]) -> Verdicts:
        """Judge images uint8 [n, 64, 64, 3]."""
        things, artists = [], []
        for start in range(0, len(images), BATCH):
            piece = torch.from_numpy(np.ascontiguousarray(images[start : start + BATCH]))
            thing, artist = self(piece.permute(0, 3, 1, 2).float() / 127.5 - 1)
            things.append(thing.argmax(1).numpy())
            artists.append(artist.argmax(1).numpy())
        none = np.zeros(0, np.int64)
        return Verdicts(np.concatenate([none, *things]), np.concatenate([none, *artists]))
