"""Zero entries of live weights so that every original byte can be restored, in any order.

Each pruned linear layer carries a small ledger: the original values, and which mask zeroed which
entries. Masks may overlap; an entry is restored when the last mask that zeroed it is removed.

Other code (a fused LoRA, a delta, `load_state_dict`) may overwrite what a mask did. So the weights
themselves decide; the ledger only says what to expect there.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

_ATTRIBUTE = "_conceptprune_ledger"

Entries = NDArray[np.int64]


@dataclass(slots=True)
class _Ledger:
    taken: Entries
    """Sorted flat indices of all entries that masks have zeroed."""
    values: Tensor
    """Their original values, in the order of `taken`."""
    zeros: int
    """Zeros in the whole weight, as the masks left it."""
    dtype: torch.dtype
    """The weight's dtype when `zeros` was counted: in a narrower one, more values are zero."""
    masks: dict[str, Entries] = field(default_factory=dict)
    fused: set[str] = field(default_factory=set)
    """Those of `masks` that must not be removed."""

    def only(self, masks: Collection[str]) -> Entries:
        """The entries that only masks in `masks` zeroed."""
        return np.setdiff1d(
            _union(self.masks[mask] for mask in masks),
            _union(entries for mask, entries in self.masks.items() if mask not in masks),
            assume_unique=True,
        )

    def original(self, entries: Entries) -> Tensor:
        """The original values of some of the entries in `taken`."""
        return self.values[torch.from_numpy(np.searchsorted(self.taken, entries))]


def applied_masks(linear: nn.Linear) -> tuple[str, ...]:
    """Identities of the masks that are applied to `linear`, in order of application."""
    ledger = _ledger(linear)
    return tuple(ledger.masks) if ledger else ()


def fused_masks(linear: nn.Linear) -> frozenset[str]:
    """Identities of the masks that are fused into `linear`."""
    ledger = _ledger(linear)
    return frozenset(ledger.fused) if ledger else frozenset()


def taken_entries(linear: nn.Linear) -> Entries:
    """Sorted flat indices of the entries that any mask zeroed."""
    ledger = _ledger(linear)
    return ledger.taken if ledger else np.empty(0, np.int64)


def set_fused(linear: nn.Linear, mask: str, fused: bool) -> None:
    """Forbid or allow removing a mask that is applied to `linear`.

    Raises:
        KeyError: `mask` is not applied to this linear.
    """
    ledger = _ledger(linear)
    if ledger is None or mask not in ledger.masks:
        raise KeyError(mask)
    (ledger.fused.add if fused else ledger.fused.discard)(mask)


def are_zero(weight: Tensor, entries: Entries) -> bool:
    """Whether all those entries of a weight [R, W] are zero."""
    return bool(_zeros(weight, entries).all())


def original_weight(linear: nn.Linear, weight: Tensor) -> Tensor:
    """The weight [R, W] as it was before any mask; shares memory if no mask is applied.

    Values that other code wrote to a mask's entries since are kept.
    """
    ledger = _ledger(linear)
    if ledger is None:
        return weight
    still = ledger.taken[_zeros(weight, ledger.taken)]
    copy = weight.clone()
    _write(copy, still, ledger.original(still))
    return copy


@torch.no_grad()
def zero_entries(linear: nn.Linear, weight: Tensor, mask: str, entries: Entries) -> None:
    """Zero the sorted flat `entries` of the linear's `weight` on behalf of `mask`.

    Their values are kept. An entry that a mask zeroed and other code wrote to since counts as new.
    """
    ledger = _ledger(linear)
    if ledger is None:
        zeros = _count_zeros(weight)
        ledger = _Ledger(np.empty(0, np.int64), weight.new_empty(0), zeros, weight.dtype)
        setattr(linear, _ATTRIBUTE, ledger)
    known = np.isin(entries, ledger.taken, assume_unique=True)
    new = ~(known & _zeros(weight, entries))
    fresh = entries[new]
    values = _read(weight, fresh)
    keep = np.isin(ledger.taken, fresh, assume_unique=True, invert=True)
    taken = np.concatenate([ledger.taken[keep], fresh])
    order = np.argsort(taken, kind="stable")
    kept = ledger.values[torch.from_numpy(keep)].to(values)
    ledger.taken, ledger.values = taken[order], torch.cat([kept, values])[torch.from_numpy(order)]
    ledger.zeros += int((values[torch.from_numpy(~known[new])] != 0).sum())
    ledger.masks[mask] = entries
    _write(weight, fresh, torch.zeros_like(values))


def what_was_written(linear: nn.Linear, weight: Tensor, masks: Collection[str]) -> str | None:
    """Why `masks` cannot be removed together: what other code did to the weight, in words.

    None if the weight is as the masks left it, or if every value has already been restored.
    """
    ledger = _ledger(linear)
    if ledger is None:
        return None
    entries = ledger.only(masks)
    now, before = _read(weight, entries), ledger.original(entries)
    nonzero = int((now != 0).sum())
    if nonzero and torch.equal(now.view(torch.uint8), before.to(now).view(torch.uint8)):
        return None
    if nonzero:
        return f"{nonzero:,} of the {len(entries):,} weights that were zeroed are not zero any more"
    more = _count_zeros(weight) - ledger.zeros
    if len(entries) and more > 0 and weight.dtype == ledger.dtype:
        return f"{more:,} other weights have become zero"
    return None


@torch.no_grad()
def restore_entries(linear: nn.Linear, weight: Tensor, masks: Collection[str]) -> None:
    """Restore every entry that only `masks` zeroed and that is still zero, and forget `masks`.

    Raises:
        KeyError: one of `masks` is not applied to this linear.
    """
    ledger = _ledger(linear)
    if ledger is None:
        raise KeyError(*masks)
    freed = ledger.only(masks)
    still = freed[_zeros(weight, freed)]
    values = ledger.original(still)
    _write(weight, still, values)
    for mask in masks:
        del ledger.masks[mask]
        ledger.fused.discard(mask)
    if not ledger.masks:
        delattr(linear, _ATTRIBUTE)
        return
    ledger.zeros -= int((values != 0).sum())
    keep = np.isin(ledger.taken, freed, assume_unique=True, invert=True)
    ledger.taken, ledger.values = ledger.taken[keep], ledger.values[torch.from_numpy(keep)]


def _ledger(linear: nn.Linear) -> _Ledger | None:
    ledger: _Ledger | None = getattr(linear, _ATTRIBUTE, None)
    return ledger


def _union(several: Iterable[Entries]) -> Entries:
    several = list(several)
    return np.unique(np.concatenate(several)) if several else np.empty(0, np.int64)


def _read(weight: Tensor, entries: Entries) -> Tensor:
    """The values of some entries, on the host, where ledgers keep them."""
    return weight.reshape(-1)[torch.from_numpy(entries).to(weight.device)].cpu()


def _write(weight: Tensor, entries: Entries, values: Tensor) -> None:
    rows, columns = np.divmod(entries, weight.shape[1])
    where = (torch.from_numpy(rows).to(weight.device), torch.from_numpy(columns).to(weight.device))
    weight[where] = values.to(weight)


def _zeros(weight: Tensor, entries: Entries) -> NDArray[np.bool_]:
    return (_read(weight, entries) == 0).numpy()


def _count_zeros(weight: Tensor) -> int:
    # torch cannot count in 8-bit floats.
    wide = weight if weight.itemsize > 1 else weight.half()
    return weight.numel() - int(wide.count_nonzero())
