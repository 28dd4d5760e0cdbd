"""ConceptPrune's selector: which weights of a site draw a concept (paper, section 3; eqs. 3-6).

Shapes: a prunable linear has R rows (outputs) and W columns (inputs, "neurons").
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from conceptprune.errors import EmptyMaskError, UserError
from conceptprune.settings import BaseRule as BaseRule
from conceptprune.settings import SelectionSettings as SelectionSettings
from conceptprune.statistics import Statistics

Energy = Mapping[str, NDArray[np.float64]]
"""Per layer [C, W] float64: sum of squared activations by denoiser call and neuron."""


def select_entries(
    weights: Mapping[str, Tensor],
    target: Energy,
    base: Energy,
    settings: SelectionSettings,
) -> dict[str, NDArray[np.int64]]:
    """The entries to prune, per layer: sorted flat indices `row * W + column`, int64.

    `weights` are the site's weights [R, W] by module name, any floating dtype.

    Raises:
        UserError: k keeps no column of some layer, or more calls are asked for than collected.
        EmptyMaskError: no entry was selected in any layer.
    """
    entries = {
        name: _select_layer(name, weights[name], target[name], base[name], settings)
        for name in sorted(weights)
    }
    if not any(len(flat) for flat in entries.values()):
        raise EmptyMaskError(
            "no weight was selected: the target prompts excite no neuron more than the base "
            "prompts do; check that base and target prompts differ"
        )
    return entries


def _select_layer(
    name: str,
    weight: Tensor,
    target: NDArray[np.float64],
    base: NDArray[np.float64],
    settings: SelectionSettings,
) -> NDArray[np.int64]:
    num_rows, width = weight.shape
    tau = settings.tau or len(target)
    if tau > len(target) or tau > len(base):
        raise UserError(
            f"pruning.tau: {tau} calls asked for, {min(len(target), len(base))} collected"
        )
    per_row = max(int(settings.sparsity * width), settings.min_per_row)
    if per_row == 0:
        raise UserError(
            f"pruning.sparsity: {settings.sparsity} of the {width} columns of {name} is less than "
            "one weight a row; raise it or set pruning.min_per_row: 1"
        )
    per_row = min(per_row, width)
    magnitude = weight.detach().cpu().float().abs()
    counts = torch.zeros(num_rows * width, dtype=torch.int16)
    row_start = torch.arange(num_rows).unsqueeze(1) * width
    for call in range(tau):
        # Wanda score |W| * A; target and base share |W|, so they compare column by column.
        score = magnitude * torch.from_numpy(np.sqrt(target[call])).float()
        chosen = _top_columns(score, per_row)
        stronger = torch.from_numpy(target[call] > base[call])
        keep = stronger[chosen] & (magnitude.gather(1, chosen) > 0)
        counts[(chosen + row_start)[keep]] += 1
    flat: NDArray[np.int64] = (counts > settings.threshold * tau).nonzero().squeeze(1).numpy()
    return flat


def _top_columns(score: Tensor, per_row: int) -> Tensor:
    """Columns [R, per_row] of each row's largest scores; of equal ones the leftmost."""
    values, columns = torch.topk(score, per_row, dim=1, sorted=False)
    cut = values.amin(dim=1, keepdim=True)
    tied = ((score >= cut).sum(dim=1) > per_row).nonzero().squeeze(1)
    if len(tied):
        order = torch.sort(score[tied], dim=1, descending=True, stable=True).indices
        columns[tied] = order[:, :per_row]
    return columns


def base_energy(
    plain: Statistics, retained: Sequence[Statistics], rule: BaseRule, *, num_prompts: int
) -> Energy:
    """What the target must exceed: the base prompts' energy alone, or with retained concepts'.

    With retained concepts, energies are taken per prompt, combined by mean or maximum over
    (base, each retained concept), and scaled to the target's `num_prompts`.

    Raises:
        UserError: the rule needs retained concepts and there are none.
    """
    if rule == "plain":
        return plain.energy()
    if not retained:
        raise UserError(f"pruning.base: {rule} needs concepts under retain:")
    sides = [plain, *retained]
    combine = np.mean if rule == "plain+retained-mean" else np.max
    return {
        name: combine([side.layers[name].sum_sq / side.num_prompts for side in sides], axis=0)
        * num_prompts
        for name in plain.layers
    }
