"""The network of a judge: convolutions in two parts, and one head each for things and styles."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from conceptprune.errors import UserError
from conceptprune.models.images import Image

if TYPE_CHECKING:
    from conceptprune.evaluation.scorers.judge import JudgeFile

BATCH = 256


class JudgeNetwork(nn.Module):
    """Parameters: `fine.I`, `coarse.I` (convolution, batch norm), `thing_head.2`, `look_head`.

    The thing head keeps positions; the style head takes means over the image, of both parts of the
    trunk.
    """

    def __init__(self, file: "JudgeFile") -> None:
        super().__init__()
        self.fine, fine = _trunk(3, file.fine)
        self.coarse, coarse = _trunk(fine, file.coarse)
        side = file.side
        for _, stride in (*file.fine, *file.coarse):
            side = -(-side // stride)
        self.thing_head = nn.Sequential(
            nn.Flatten(), nn.Dropout(0.2), nn.Linear(coarse * side * side, len(file.object))
        )
        self._spread = file.spread
        self.look_head = nn.Linear(coarse + fine * (1 + file.spread), len(file.style))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits for style and thing of images float32 [n, 3, side, side] in -1..1."""
        fine = self.fine(pixels)
        coarse = self.coarse(fine)
        pooled = [coarse.mean((2, 3)), fine.mean((2, 3))]
        if self._spread:
            pooled.append(fine.std((2, 3)))
        return self.look_head(torch.cat(pooled, 1)), self.thing_head(coarse)

    @torch.no_grad()
    def classes(self, images: Sequence[Image], side: int) -> tuple[list[int], list[int]]:
        """Styles and things of images uint8 [side, side, 3].

        Raises:
            UserError: an image is of another size.
        """
        for image in images:
            if image.shape != (side, side, 3):
                raise UserError(
                    f"scorers: judge: knows images of {side} x {side} pixels, not "
                    f"{image.shape[1]} x {image.shape[0]}"
                )
        styles: list[int] = []
        things: list[int] = []
        for first in range(0, len(images), BATCH):
            batch = torch.from_numpy(np.stack(images[first : first + BATCH]))
            style, thing = self(batch.permute(0, 3, 1, 2).float() / 127.5 - 1)
            styles += style.argmax(1).tolist()
            things += thing.argmax(1).tolist()
        return styles, things


def load_judge(path: Path, file: "JudgeFile") -> JudgeNetwork:
    """A network built as `file` says, with the weights at `path`.

    Raises:
        UserError: they are missing, or belong to another network.
    """
    # Without memory: that of a hostile description would be too much, and the weights bring theirs.
    with torch.device("meta"):
        network = JudgeNetwork(file)
    try:
        # Copied to aligned memory: elsewhere, sums differ in their last bits.
        found = load_file(path).items()
        weights = {name: tensor.to(torch.float32, copy=True) for name, tensor in found}
        network.load_state_dict(weights, assign=True)
    except (OSError, SafetensorError) as error:
        raise UserError(f"scorers: {path}: cannot be read: {error}") from error
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise UserError(
            f"scorers: {path}: not the network that judge.json describes: {lines[-1].strip()}"
        ) from error
    return network.eval()


def _trunk(inputs: int, layers: Sequence[tuple[int, int]]) -> tuple[nn.Sequential, int]:
    """3 x 3 convolutions with batch norm and ReLU, and the channels of the last."""
    found = []
    for channels, stride in layers:
        found.append(
            nn.Sequential(
                nn.Conv2d(inputs, channels, 3, stride, 1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(),
            )
        )
        inputs = channels
    return nn.Sequential(*found), inputs
