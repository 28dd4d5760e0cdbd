"""A budget of weights for many concepts, shared fairly between them and sparing retained ones.

Shapes: a prunable linear has R rows (outputs) and W columns (inputs, "neurons").
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from conceptprune.collection.statistics import Statistics
from conceptprune.errors import EmptyMaskError, UserError
from conceptprune.masks.codec import decode_entries
from conceptprune.masks.contrast import contrast

Floats = NDArray[np.float32]
Entries = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drive:
    """How strongly a concept drives each weight, as two vectors per layer.

    The saliency of entry (i, j) is `|W[i, j]| * columns[j] * rows[i]`: the part of output i's input
    that comes through this entry and is specific to the concept's prompts. It is a share of its
    row, so that layers are comparable whatever the scale of their weights.
    """

    columns: Mapping[str, Floats]
    """[W]: FIA's contrast, averaged over the calls."""
    rows: Mapping[str, Floats]
    """[R]: one over `sum_j |W[i, j]| * mean over calls and prompts of the norm of neuron j`."""

    @classmethod
    def of(
        cls,
        weights: Mapping[str, Tensor],
        target: Statistics,
        base: Statistics,
        tau: int | None = None,
    ) -> "Drive":
        """The drive of a concept from its two sides, over the first `tau` calls."""
        columns, rows = {}, {}
        for name, weight in weights.items():
            columns[name] = contrast(target, base, name)[:tau].mean(axis=0).astype(np.float32)
            fed = target.layers[name].sum_norm[:tau].mean(axis=0) / target.num_prompts
            total = weight.detach().cpu().float().abs() @ torch.from_numpy(fed).float()
            rows[name] = total.clamp_min(torch.finfo(torch.float32).tiny).reciprocal().numpy()
        return cls(columns=columns, rows=rows)

    def saliency(self, name: str, magnitude: Floats, entries: Entries) -> Floats:
        """Saliency (float32) of some entries of a layer; `magnitude` [R * W] is the layer's |W|."""
        row, column = np.divmod(entries, len(self.columns[name]))
        saliency: Floats = magnitude[entries] * self.columns[name][column] * self.rows[name][row]
        return saliency


def within_budget(
    codes: Mapping[str, Sequence[NDArray[np.uint8]]],
    fraction: float,
    weights: Mapping[str, Tensor],
    names: Sequence[str],
    concepts: Sequence[Drive],
    retained: Sequence[Drive],
) -> dict[str, Entries]:
    """Choose at most B = int(fraction * weights of the site) of the masks' entries, by layer.

    `codes` are the masks' coded entries by layer, in the order of `concepts` and their `names`.

    1. An entry is spared if its saliency (see `Drive`) for some retained concept is larger than for
       every concept that selects it. Entries with zero saliency are not pruned either.
    2. Half of the budget is shared equally: for each of the C concepts, its int(B / 2C) most
    salient
       entries are taken. Entries that several concepts take count once.
    3. The rest of B goes to the entries with the largest saliency, summed over the concepts that
       select them.

    Ties go to the first entry by layer name and index. Memory: one layer's weights, the budget, and
    one byte per entry of each mask.

    Raises:
        UserError: the budget has fewer than two weights per concept.
        EmptyMaskError: a concept has no entry that may be pruned.
    """
    budget = int(fraction * sum(weight.numel() for weight in weights.values()))
    fair = budget // (2 * len(concepts))
    if fair == 0:
        raise UserError(
            f"outputs.fuse.fraction: {fraction} is {budget} weights, too few for "
            f"{len(concepts)} concepts; raise it"
        )
    own = [_Best(fair) for _ in concepts]
    summed = _Best(budget)
    starts: dict[str, int] = {}
    start = 0
    for name in sorted(weights):
        starts[name] = start
        magnitude = weights[name].detach().cpu().float().abs().numpy().reshape(-1)
        allowed = _not_spared(name, magnitude, codes[name], concepts, retained)
        total = np.zeros_like(magnitude)
        for coded, drive, best in zip(codes[name], concepts, own, strict=True):
            entries = decode_entries(coded)
            entries = entries[allowed[entries]]
            saliency = drive.saliency(name, magnitude, entries)
            total[entries] += saliency
            best.offer(saliency, entries + start)
        candidates = np.flatnonzero(total)
        summed.offer(total[candidates], candidates + start)
        start += len(magnitude)
    for best, concept in zip(own, names, strict=True):
        if not len(best.entries):
            raise EmptyMaskError(
                f'outputs.fuse: the budget leaves nothing to prune for "{concept}": every entry of '
                "its mask matters more to a retained concept, or no more than the base prompts' "
                "spread"
            )
    taken = np.unique(np.concatenate([best.entries for best in own]))
    others = ~np.isin(summed.entries, taken, assume_unique=True)
    rest = _Best(budget - len(taken))
    rest.offer(summed.values[others], summed.entries[others])
    chosen = np.union1d(taken, rest.entries)
    return {
        name: chosen[(chosen >= first) & (chosen < first + weights[name].numel())] - first
        for name, first in starts.items()
    }


def _not_spared(
    name: str,
    magnitude: Floats,
    codes: Sequence[NDArray[np.uint8]],
    concepts: Sequence[Drive],
    retained: Sequence[Drive],
) -> NDArray[np.bool_]:
    """Entries [R * W] that are not spared for any retained concept."""
    largest = np.zeros_like(magnitude)
    for coded, drive in zip(codes, concepts, strict=True):
        entries = decode_entries(coded)
        saliency = drive.saliency(name, magnitude, entries)
        largest[entries] = np.maximum(largest[entries], saliency)
    candidates = np.flatnonzero(largest)
    allowed = np.zeros(len(magnitude), dtype=np.bool_)
    allowed[candidates] = True
    for drive in retained:
        matters = drive.saliency(name, magnitude, candidates)
        allowed[candidates[matters > largest[candidates]]] = False
    return allowed


class _Best:
    """The `size` entries with the largest values offered; ties go to the lowest index.

    Entries are offered in the order of their indices.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.values = np.empty(0, dtype=np.float32)
        self.entries = np.empty(0, dtype=np.int64)

    def offer(self, values: Floats, entries: Entries) -> None:
        """Keep the entries that are good enough; zero never is."""
        positive = values > 0
        values = np.concatenate([self.values, values[positive]])
        entries = np.concatenate([self.entries, entries[positive]])
        if len(values) > self.size:
            if self.size == 0:
                return
            cut = np.partition(values, len(values) - self.size)[len(values) - self.size]
            keep = values > cut
            keep[np.flatnonzero(values == cut)[: self.size - keep.sum()]] = True
            values, entries = values[keep], entries[keep]
        self.values, self.entries = values, entries
