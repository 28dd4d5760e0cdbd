"""Zeroing entries of live weights so that every original byte can come back, in any order.

A linear that has lost entries carries one small ledger: the original values, and which masks took
which entries. Several masks may overlap; an entry comes back when the last mask that took it goes.
"""

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
    """Sorted flat indices of all entries that are zeroed now."""
    values: Tensor
    """Their original values, in the order of `taken`."""
    masks: dict[str, Entries] = field(default_factory=dict)
    fused: set[str] = field(default_factory=set)
    """Those of `masks` that are not to be taken off."""


def applied_masks(linear: nn.Linear) -> tuple[str, ...]:
    """Identities of the masks now applied to `linear`, in order of application."""
    ledger: _Ledger | None = getattr(linear, _ATTRIBUTE, None)
    return tuple(ledger.masks) if ledger else ()


def fused_masks(linear: nn.Linear) -> frozenset[str]:
    """Identities of the masks that are fused into `linear`."""
    ledger: _Ledger | None = getattr(linear, _ATTRIBUTE, None)
    return frozenset(ledger.fused) if ledger else frozenset()


def set_fused(linear: nn.Linear, mask: str, fused: bool) -> None:
    """Forbid, or allow again, to take off a mask that is applied to `linear`.

    Raises:
        KeyError: `mask` is not applied to this linear.
    """
    ledger: _Ledger | None = getattr(linear, _ATTRIBUTE, None)
    if ledger is None or mask not in ledger.masks:
        raise KeyError(mask)
    (ledger.fused.add if fused else ledger.fused.discard)(mask)


def original_weight(linear: nn.Linear) -> Tensor:
    """The weight [R, W] as it was before any mask; shares memory where no mask is applied."""
    ledger: _Ledger | None = getattr(linear, _ATTRIBUTE, None)
    if ledger is None:
        return linear.weight.detach()
    weight = linear.weight.detach().clone()
    _write(weight, ledger.taken, ledger.values)
    return weight


@torch.no_grad()
def zero_entries(linear: nn.Linear, mask: str, entries: Entries) -> None:
    """Zero the sorted flat `entries` in the name of `mask`, keeping their values."""
    ledger: _Ledger | None = getattr(linear, _ATTRIBUTE, None)
    if ledger is None:
        ledger = _Ledger(taken=np.empty(0, np.int64), values=linear.weight.new_empty(0))
        setattr(linear, _ATTRIBUTE, ledger)
    fresh = np.setdiff1d(entries, ledger.taken, assume_unique=True)
    flat = linear.weight.detach().view(-1)
    index = torch.from_numpy(fresh).to(flat.device)
    taken = np.concatenate([ledger.taken, fresh])
    order = np.argsort(taken, kind="stable")
    values = torch.cat([ledger.values.to(flat), flat[index]])
    ledger.taken, ledger.values = taken[order], values[torch.from_numpy(order).to(flat.device)]
    ledger.masks[mask] = entries
    flat[index] = 0


@torch.no_grad()
def restore_entries(linear: nn.Linear, mask: str) -> None:
    """Give back every entry that only `mask` took.

    Raises:
        KeyError: `mask` is not applied to this linear.
    """
    ledger: _Ledger | None = getattr(linear, _ATTRIBUTE, None)
    if ledger is None or mask not in ledger.masks:
        raise KeyError(mask)
    entries = ledger.masks.pop(mask)
    others = list(ledger.masks.values())
    still = np.unique(np.concatenate(others)) if others else np.empty(0, np.int64)
    freed = np.setdiff1d(entries, still, assume_unique=True)
    where = np.searchsorted(ledger.taken, freed)
    _write(linear.weight.detach(), freed, ledger.values[torch.from_numpy(where)])
    if not ledger.masks:
        delattr(linear, _ATTRIBUTE)
        return
    keep = np.isin(ledger.taken, freed, assume_unique=True, invert=True)
    ledger.taken, ledger.values = ledger.taken[keep], ledger.values[torch.from_numpy(keep)]


def _write(weight: Tensor, entries: Entries, values: Tensor) -> None:
    flat = weight.view(-1)
    flat[torch.from_numpy(entries).to(flat.device)] = values.to(flat)
