"""What a worker does for the units of rewording: sums of encoded prompts, and the edit."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from conceptprune.checkpoints.delta import Delta
from conceptprune.checkpoints.delta_header import DeltaHeader
from conceptprune.checkpoints.delta_reader import read_delta
from conceptprune.checkpoints.files import encode_delta
from conceptprune.edits.moments import Moments, Shift
from conceptprune.edits.moments_file import moments_bytes, read_moments, read_shift
from conceptprune.edits.projections import edited, prompt_projections
from conceptprune.edits.reword import concept_shift, prompt_moments, reword_map, vocabulary_moments
from conceptprune.errors import UserError
from conceptprune.models.base import DiffusionModel
from conceptprune.models.weights import read_weights
from conceptprune.store import Commit, Store
from conceptprune.units.results import check_whose
from conceptprune.units.reword_units import MomentsUnit, RewordUnit, ShiftUnit, VocabularyUnit


def sums_file(model: DiffusionModel, unit: ShiftUnit | MomentsUnit | VocabularyUnit) -> bytes:
    """The sums of a concept, of prompts that stay, or of base prompts with common words.

    Raises:
        UserError: a target prompt is the same as its base.
    """
    match unit:
        case ShiftUnit():
            return moments_bytes(concept_shift(model, unit.concept, unit.pairs), unit.key)
        case MomentsUnit():
            return moments_bytes(prompt_moments(model, unit.texts), unit.key)
        case VocabularyUnit():
            found = vocabulary_moments(
                model, unit.templates, count=unit.words, without=unit.without
            )
            return moments_bytes(found, unit.key)


def load_shift(store: Store, commit: Commit) -> Shift:
    """The committed sums of a concept.

    Raises:
        LostUnitError: they are missing or damaged, or say that they are another unit's.
        UserError: it is no such file.
    """
    shift, unit = read_shift(store.load(commit, "moments"))
    store.check_unit(commit, "moments", commit.key if unit is None else unit)
    return shift


def load_moments(store: Store, commit: Commit) -> Moments:
    """The committed sums of prompts that stay.

    Raises:
        LostUnitError, UserError: as `load_shift`.
    """
    moments, unit = read_moments(store.load(commit, "moments"))
    store.check_unit(commit, "moments", commit.key if unit is None else unit)
    return moments


def reworded(
    store: Store, unit: RewordUnit, model: DiffusionModel, folder: Path
) -> tuple[bytes, dict[str, Any]]:
    """The delta, and how many weights of how many it may change.

    Sums are read one after another, so that no more than two are in memory.

    Raises:
        UserError: the model has no keys and values that see the prompt.
        StoreError: a sum is not committed, or is damaged.
    """
    names = prompt_projections(model)

    def shifts() -> Iterator[Shift]:
        for key in unit.shifts:
            yield load_shift(store, store.get(ShiftUnit.kind, key))

    def stays(keys: Sequence[str], kind: str = MomentsUnit.kind) -> Iterator[Moments]:
        for key in keys:
            yield load_moments(store, store.get(kind, key))

    change = reword_map(
        shifts(),
        stays(unit.retained),
        stays(unit.bases),
        next(stays([unit.empty])),
        unit.settings,
        next(stays([unit.vocabulary], VocabularyUnit.kind)) if unit.vocabulary else None,
    )
    weights = read_weights(folder / model.component, names)
    data = encode_delta(
        {f"{name}.weight": tensor for name, tensor in edited(weights, change).items()},
        component=model.component,
        concepts=unit.erased,
        mask=None,
        provenance={"method": unit.kind, "settings": unit.settings.key_parts, **unit.provenance},
    )
    num_weights = sum(weight.numel() for weight in weights.values())
    return data, {"entries": num_weights, "site_weights": num_weights}


def read_rewording(store: Store, key: str, folder: Path, *, of: Sequence[str]) -> Delta:
    """The committed edit with that key, for the model in `folder`.

    Raises:
        StoreError: it is not committed or damaged, or its file says that it is not `of` these
            concepts.
        UserError, ModelMismatchError: see `Delta.from_bytes`.
    """
    commit = store.get(RewordUnit.kind, key)
    delta = Delta.from_bytes(store.load(commit, "delta"), folder)
    check_whose(store, commit, delta, *of)
    return delta


def check_rewording(store: Store, commit: Commit, data: bytes, *, of: Sequence[str]) -> DeltaHeader:
    """Check, without a model, the edit of a commit record, whose bytes are `data`.

    Raises:
        StoreError: its file says that it is not `of` these concepts.
        UserError: it is no delta of this format.
    """
    header, _ = read_delta(data)
    if header is None:
        raise UserError("a delta of another tool: its file does not say whom it erases")
    check_whose(store, commit, header, *of)
    return header
