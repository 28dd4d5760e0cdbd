"""Another text encoder for a denoiser that is trained already."""

import torch
from torch import Tensor, nn

RIDGE = 1e-4
"""Of the mean diagonal; it only keeps directions that no caption has from growing."""


@torch.no_grad()
def refit(denoiser: nn.Module, before: Tensor, after: Tensor) -> None:
    """Make the cross-attention's keys and values of the new states near those of the old ones.

    `before` and `after` are states [n, D] of the same tokens in both encoders, for a denoiser that
    is trained with the first and goes on training with the second. Every projection is multiplied
    by the same matrix, which solves least squares over all tokens of all captions.
    """
    old, new = before.double(), after.double()
    gram = new.T @ new
    gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    change = torch.linalg.solve(gram, new.T @ old).T
    for name, module in denoiser.named_modules():
        if name.endswith(("attn2.to_k", "attn2.to_v")):
            module.weight.copy_(module.weight.double() @ change)
