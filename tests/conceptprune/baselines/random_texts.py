"""Random encoded texts and projections: the maths of the edits does not care what they mean."""

import torch
from torch import Tensor

from conceptprune.baselines.uce import Edit, Encoded

WIDTH, TOKENS = 6, 5


class Texts:
    """Draws from one seed."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64)

    def text(self, last: int = 2) -> Encoded:
        return Encoded(states=self.normal(TOKENS, WIDTH), last=last)

    def edit(self) -> Edit:
        return Edit(erased=self.text(last=3), guide=self.text(last=1))

    def projections(self, *rows: int) -> list[Tensor]:
        return [self.normal(count, WIDTH) for count in rows]
