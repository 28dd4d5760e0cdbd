"""Fuse several concepts' masks into one: `union`, `retain-shared`, or within a `budget`.

Masks are read one at a time; only their coded entries are kept, one byte per entry.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from conceptprune.errors import EmptyMaskError
from conceptprune.manifest import Fuse
from conceptprune.masks.budget import Drive, within_budget
from conceptprune.masks.codec import decode_entries, encode_entries
from conceptprune.masks.mask import PruningMask, check_same_weights, fused_mask

Codes = Sequence[NDArray[np.uint8]]
"""One layer's entries by mask, as `mask_codec` codes them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drives:
    """What a budget is spent by; other fusions do not need it."""

    weights: Mapping[str, Tensor]
    """The site's weights [R, W] by module name."""
    concepts: Sequence[Drive]
    """In the order of the masks."""
    retained: Sequence[Drive] = ()


def fuse_masks(
    masks: Iterable[PruningMask],
    fusion: Fuse,
    drives: Drives | None = None,
    *,
    provenance: Mapping[str, Any] | None = None,
) -> PruningMask:
    """Fuse several masks into one; the iterable is consumed once.

    Raises:
        ModelMismatchError: the masks belong to different models, components or sites.
        UserError: a budget is too small for so many concepts.
        EmptyMaskError: nothing would be pruned, or nothing for some concept.
        ValueError: no mask, or a budget without drives.
    """
    like: PruningMask | None = None
    parts: list[dict[str, Any]] = []
    codes: dict[str, list[NDArray[np.uint8]]] = {}
    for mask in masks:
        like = like or mask
        check_same_weights(like, mask)
        parts.append(mask.as_part())
        for name, layer in mask.layers.items():
            codes.setdefault(name, []).append(encode_entries(layer.entries))
    if like is None:
        raise ValueError("no masks to fuse")
    sizes = {name: layer.shape[0] * layer.shape[1] for name, layer in like.layers.items()}
    match fusion.how:
        case "union":
            entries = _counted(codes, sizes, fewer_than=len(parts) + 1)
        case "retain-shared":
            shared = max(2, ceil(fusion.settings["alpha"] * len(parts)))
            entries = _counted(codes, sizes, fewer_than=shared)
        case "budget":
            if drives is None:
                raise ValueError("a budget is spent by drives, and there are none")
            names = [", ".join(part["concepts"]) for part in parts]
            entries = within_budget(
                codes,
                fusion.settings["fraction"],
                drives.weights,
                names,
                drives.concepts,
                drives.retained,
            )
    if not any(len(flat) for flat in entries.values()):
        raise EmptyMaskError(
            f"outputs.fuse: {fusion.how} leaves nothing to prune: every entry is shared by "
            "concepts; raise alpha"
        )
    return fused_mask(like, parts, entries, {**fusion.key_parts, **(provenance or {})})


def _counted(
    codes: Mapping[str, Codes], sizes: Mapping[str, int], *, fewer_than: int
) -> dict[str, NDArray[np.int64]]:
    """Entries that occur in at least one mask and in fewer than the given number."""
    entries = {}
    for name, layer in codes.items():
        counts = np.zeros(sizes[name], dtype=np.uint16)
        for coded in layer:
            counts[decode_entries(coded)] += 1
        entries[name] = np.flatnonzero((counts > 0) & (counts < fewer_than))
    return entries
