"""Forget-It-All's selector (arXiv 2601.06163): contrastive saliency, by magnitude and constancy.

Shapes: C denoiser calls; a prunable linear has R rows (outputs) and W columns (inputs, "neurons").
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from conceptprune.errors import UserError
from conceptprune.manifest import Pruning
from conceptprune.masks.select_conceptprune import calls_used, top_columns


def select_in_layer(
    name: str, weight: Tensor, contrast: NDArray[np.float64], settings: Sequence[Pruning]
) -> list[NDArray[np.int64]]:
    """One layer's entries under each of several settings: sorted flat indices `row * W + column`.

    With saliency `S = |W| * C` of a `contrast` C [C, W], an entry's score is half of `mean_t S`
    over its largest value in the layer, and half of the share of calls in which S exceeds the
    layer's int(r1 * R * W)-th largest. An entry is pruned if it is among the int(r2 * W) best of
    its row and the int(r2 * R * W) best of the layer (ties go to the first), and if S is not zero
    at all calls.

    Raises:
        UserError: r1 or r2 selects no weight of the layer, or more calls are requested than were
        collected.
    """
    magnitude = weight.detach().cpu().float().abs()
    return [_select(name, magnitude, contrast, setting) for setting in settings]


def _select(
    name: str, magnitude: Tensor, contrast: NDArray[np.float64], settings: Pruning
) -> NDArray[np.int64]:
    num_rows, width = magnitude.shape
    salient = _at_least_one("r1", settings.r1, num_rows * width, f"weights of {name}")
    per_row = _at_least_one("r2", settings.r2, width, f"columns of {name}")
    tau = calls_used(settings.tau, len(contrast))
    total = torch.zeros_like(magnitude)
    votes = torch.zeros_like(magnitude)
    for call in range(tau):
        saliency = magnitude * torch.from_numpy(contrast[call]).float()
        cut = torch.topk(saliency.view(-1), salient, sorted=False).values.min()
        total += saliency
        votes += saliency > cut
    largest = total.max()
    if largest == 0:
        return np.empty(0, dtype=np.int64)
    score = total.div_(largest).add_(votes.div_(tau)).mul_(0.5)
    kept = _top(score, per_row) & _top(score.view(1, -1), int(settings.r2 * score.numel())).view_as(
        score
    )
    flat: NDArray[np.int64] = (kept & (score > 0)).view(-1).nonzero().squeeze(1).numpy()
    return flat


def _top(score: Tensor, per_row: int) -> Tensor:
    """Mark each row's `per_row` largest values; ties go to the leftmost."""
    marked = torch.zeros_like(score, dtype=torch.bool)
    return marked.scatter_(1, top_columns(score, per_row), value=True)


def _at_least_one(setting: str, fraction: float, count: int, what: str) -> int:
    number = int(fraction * count)
    if number == 0:
        raise UserError(f"pruning.{setting}: {fraction} of the {count} {what} is none; raise it")
    return number
