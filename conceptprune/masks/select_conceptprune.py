"""ConceptPrune's selector: which weights of a site generate a concept (paper, section 3; eqs. 3-6).

Shapes: a prunable linear has R rows (outputs) and W columns (inputs, "neurons").
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from conceptprune.collection.statistics import Statistics
from conceptprune.errors import UserError
from conceptprune.manifest import BaseRule, Pruning


def select_in_layer(
    name: str,
    weight: Tensor,
    target: NDArray[np.float64],
    base: NDArray[np.float64],
    settings: Sequence[Pruning],
) -> list[NDArray[np.int64]]:
    """One layer's entries under each of several settings: sorted flat indices `row * W + column`.

    `weight` is [R, W], in any floating dtype; `target` and `base` are energies [C, W], sums of
    squared activations by denoiser call and neuron. Settings that differ only in tau and threshold
    share one pass over the calls.

    Raises:
        UserError: k selects no column of the layer, or more calls are requested than were
        collected.
    """
    shared: dict[int, list[tuple[int, int, float]]] = {}
    for index, setting in enumerate(settings):
        tau = calls_used(setting.tau, len(target), len(base))
        per_row = setting.columns_per_row(weight.shape[1])
        if per_row == 0:
            raise UserError(
                f"pruning.sparsity: {setting.sparsity} of the {weight.shape[1]} columns of {name} "
                "is less than one weight per row; raise it or set pruning.min_per_row: 1"
            )
        shared.setdefault(per_row, []).append((index, tau, setting.threshold))
    magnitude = weight.detach().cpu().float().abs()
    found: dict[int, NDArray[np.int64]] = {}
    for per_row, asked in shared.items():
        found |= _in_one_pass(magnitude, target, base, per_row, asked)
    return [found[index] for index in range(len(settings))]


def calls_used(tau: int | None, *collected: int) -> int:
    """How many calls a setting uses; `collected` are the numbers of calls of all sides.

    Raises:
        UserError: fewer calls were collected than it requests.
    """
    if tau is not None and tau > min(collected):
        raise UserError(f"pruning.tau: {tau} calls asked for, {min(collected)} collected")
    return min(collected) if tau is None else tau


def _in_one_pass(
    magnitude: Tensor,
    target: NDArray[np.float64],
    base: NDArray[np.float64],
    per_row: int,
    asked: Sequence[tuple[int, int, float]],
) -> dict[int, NDArray[np.int64]]:
    """Entries by index, for each requested (index, tau, threshold)."""
    num_rows, width = magnitude.shape
    counts = torch.zeros(num_rows * width, dtype=torch.int16)
    row_start = torch.arange(num_rows).unsqueeze(1) * width
    found: dict[int, NDArray[np.int64]] = {}
    for call in range(max(tau for _, tau, _ in asked)):
        # Wanda score |W| * A; target and base share |W|, so they can be compared by column.
        score = magnitude * torch.from_numpy(np.sqrt(target[call])).float()
        chosen = top_columns(score, per_row)
        stronger = torch.from_numpy(target[call] > base[call])
        keep = stronger[chosen] & (magnitude.gather(1, chosen) > 0)
        counts[(chosen + row_start)[keep]] += 1
        for index, tau, threshold in asked:
            if tau == call + 1:
                found[index] = (counts > threshold * tau).nonzero().squeeze(1).numpy()
    return found


def top_columns(score: Tensor, per_row: int) -> Tensor:
    """Columns [R, per_row] with each row's largest scores; ties go to the leftmost."""
    values, columns = torch.topk(score, per_row, dim=1, sorted=False)
    cut = values.amin(dim=1, keepdim=True)
    tied = ((score >= cut).sum(dim=1) > per_row).nonzero().squeeze(1)
    if len(tied):
        order = torch.sort(score[tied], dim=1, descending=True, stable=True).indices
        columns[tied] = order[:, :per_row]
    return columns


def base_energy(
    layer: str,
    plain: Statistics,
    retained: Sequence[Statistics],
    rule: BaseRule,
    *,
    num_prompts: int,
) -> NDArray[np.float64]:
    """The level that the target's energy must exceed in a layer: [C, W] float64.

    It is the base prompts' energy or, with another `rule`, the mean or maximum over the base and
    the retained concepts: per prompt, scaled to the target's `num_prompts`.

    Raises:
        UserError: the rule needs retained concepts and there are none.
    """
    if rule == "plain":
        return plain.layers[layer].sum_sq
    sides = [plain, *retained]
    per_prompt = [side.layers[layer].sum_sq / side.num_prompts for side in sides]
    return combine_sides(per_prompt, rule) * num_prompts


def combine_sides(levels: Sequence[NDArray[np.float64]], rule: BaseRule) -> NDArray[np.float64]:
    """Combine the levels of the sides (the base's first, then retained ones) by `rule`.

    Raises:
        UserError: the rule needs retained concepts and there are none.
    """
    if rule == "plain":
        return levels[0]
    if len(levels) == 1:
        raise UserError(f"pruning.base: {rule} needs concepts under retain:")
    together = np.stack(levels)
    combined: NDArray[np.float64] = (
        together.mean(axis=0) if rule == "plain+retained-mean" else together.max(axis=0)
    )
    return combined
