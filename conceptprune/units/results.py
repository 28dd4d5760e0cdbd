"""Results of committed units, read from the store: masks, statistics, and what fuses them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch

from conceptprune.collection.statistics import Statistics, said_of
from conceptprune.errors import StoreError
from conceptprune.manifest import concept_key
from conceptprune.masks.budget import Drive
from conceptprune.masks.fusion import Drives, fuse_masks
from conceptprune.masks.mask import PruningMask
from conceptprune.models.families import denoiser_of
from conceptprune.models.trajectory import TrajectoryState
from conceptprune.models.weights import read_layers
from conceptprune.store import Commit, Store, load_table
from conceptprune.units.reword_units import RewordUnit
from conceptprune.units.units import FusedMaskUnit, MaskUnit, StatisticsUnit


class Named(Protocol):
    """A mask, or a delta's header: whatever says whom it erases."""

    @property
    def concepts(self) -> Sequence[str]:
        """Their names."""


def read_mask(store: Store, key: str, *, of: str | Sequence[str] | None = None) -> PruningMask:
    """The committed mask with that key, a concept's or a fused one.

    Raises:
        StoreError: it is not committed or damaged, or its file says that it is not the mask `of`
        these concepts.
    """
    commit = store.find(MaskUnit.kind, key) or store.find(FusedMaskUnit.kind, key)
    if commit is None:
        commit = store.get(MaskUnit.kind, key)
    mask = PruningMask.from_bytes(store.load(commit, "mask"))
    if of is not None:
        check_whose(store, commit, mask, *([of] if isinstance(of, str) else of))
    return mask


def check_whose(store: Store, commit: Commit, edit: Named, *concepts: str) -> None:
    """Refuse the edit of other concepts, which would erase, or claim to erase, the wrong ones.

    Raises:
        StoreError: its file does not say that it is these concepts' own.
    """
    if list(map(concept_key, edit.concepts)) != list(map(concept_key, concepts)):
        names = ", ".join(f'"{name}"' for name in concepts)
        theirs = ", ".join(edit.concepts) or "nobody"
        what = "rewording" if commit.kind == RewordUnit.kind else "mask"
        raise StoreError(
            f"{store.uri}: {commit.kind} {commit.key[:12]} is recorded as the {what} of "
            f"{names:.300}, and its file is a {what} of {theirs:.300}: somebody changed its "
            "record; run `conceptprune erase --verify` to compute it again"
        )


def read_statistics(store: Store, kind: str, key: str, role: str) -> Statistics:
    """The committed statistics with that key.

    Raises:
        StoreError: they are not committed, or are damaged.
    """
    commit = store.get(kind, key)
    table = load_table(store, commit, role)
    try:
        if kind == StatisticsUnit.kind:
            store.check_unit(commit, role, f"{said_of(table).get('side', key)}")
        return Statistics.from_arrow(table)
    except ValueError as error:
        raise StoreError(f"{store.uri}: {kind} {key[:12]}: {error}") from error


def read_state(store: Store, commit: Commit, role: str) -> TrajectoryState:
    """One of the states that a window left.

    Raises:
        LostUnitError: it is missing or damaged, or says that another window left it.
        UserError: it is no state.
    """
    state = TrajectoryState.from_bytes(store.load(commit, role))
    # States of earlier versions do not say.
    store.check_unit(commit, role, state.unit or commit.key)
    return state


def fused(store: Store, unit: FusedMaskUnit, folder: Path, dtype: torch.dtype) -> PruningMask:
    """Make the fused mask that `unit` describes, from masks and statistics in the store.

    Raises:
        UserError, ModelMismatchError: see `fuse_masks`.
        StoreError: something is not committed, or is damaged.
    """
    named = zip(unit.masks, unit.erased, strict=True)
    masks = (read_mask(store, key, of=name) for key, name in named)
    if not unit.sides:
        return fuse_masks(masks, unit.fusion)
    layers = read_mask(store, unit.masks[0]).layers
    weights = read_layers(folder, layers, denoiser_of(folder), dtype)
    widths = {name: weight.shape[1] for name, weight in weights.items()}
    cached: dict[str, Statistics] = {}

    def side(key: str) -> Statistics:
        return read_statistics(store, StatisticsUnit.kind, key, "statistics").padded(widths)

    def drive(sides: tuple[str, str]) -> Drive:
        target, base = sides
        # Cached because bases are few and shared; each target belongs to one concept.
        if base not in cached:
            cached[base] = side(base)
        return Drive.of(weights, side(target), cached[base], unit.tau)

    drives = Drives(
        weights=weights,
        concepts=[drive(sides) for sides in unit.sides],
        retained=[drive(sides) for sides in unit.retained],
    )
    return fuse_masks(
        masks, unit.fusion, drives, provenance={"retained": [key for key, _ in unit.retained]}
    )
