"""What a job finds in the store for its plan: what is left to do, and what it reuses."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from conceptprune.errors import StoreError, UserError
from conceptprune.store import Commit, Store
from conceptprune.units.find import find_commit
from conceptprune.units.reword_units import MomentsUnit, RewordUnit, ShiftUnit, VocabularyUnit
from conceptprune.units.unit import Unit
from conceptprune.units.unit_plan import UnitPlan
from conceptprune.units.units import FusedMaskUnit, MaskUnit

from ..scheduling.graph import committed_in, units_to_do
from .ledger import READERS, Made, reused_units


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A plan compared with a store."""

    todo: Sequence[Unit]
    reused: Mapping[str, Made]
    """What is recorded of the units that are committed and kept, by key."""


def find_units(plan: UnitPlan, store: Store, *, verify: bool = False) -> Found:
    """The units of a plan that the store lacks, including results lost after they were committed.

    A listing shows objects that are missing or truncated. Other damage shows when an object is
    read, which `verify` does here for every result, and for the sums that a rewording is made of.

    Raises:
        StoreError: the store cannot be read, or damage cannot be moved aside.
    """
    committed = committed_in(store)
    units = units_to_do(plan, committed)
    reused = reused_units(plan, store, {unit.key for unit in units}, committed)
    there = [unit for unit in plan.units() if committed(unit.kind, unit.key)]
    results = [unit for unit in there if not unit.intermediate]
    # Sums are few and small, and a rerun with one more concept adds to them.
    sums = [unit for unit in there if isinstance(unit, ShiftUnit | MomentsUnit | VocabularyUnit)]
    suspects = [*results, *sums] if verify else _cut_short(results, store, reused)
    with ThreadPoolExecutor(READERS) as readers:
        found = readers.map(lambda unit: _is_lost(store, unit), suspects)
        lost = {unit.key for unit, is_lost in zip(suspects, found, strict=True) if is_lost}
    if lost:
        units = units_to_do(plan, lambda kind, key: key not in lost and committed(kind, key))
        todo = {unit.key for unit in units}
        reused = {key: made for key, made in reused.items() if key not in todo | lost}
    return Found(todo=units, reused=reused)


def _cut_short(results: Sequence[Unit], store: Store, reused: Mapping[str, Made]) -> list[Unit]:
    """Results without a record, or whose objects a listing does not show at their full size."""
    made = [reused[unit.key] for unit in results if unit.key in reused]
    folders = {path.rpartition("/")[0] for each in made for path in each["objects"]}
    sizes = {
        entry.path: entry.size for folder in sorted(folders) for entry in store.entries(folder)
    }

    def whole(made: Made) -> bool:
        size: int = made["bytes"]
        return sum(sizes.get(path, -1) for path in made["objects"]) == size

    return [unit for unit in results if unit.key not in reused or not whole(reused[unit.key])]


def _is_lost(store: Store, unit: Unit) -> bool:
    commit = find_commit(store, unit.kind, unit.key)
    if commit is None or store.set_aside(commit):
        return True
    try:
        _check(store, unit, commit)
    except (UserError, StoreError) as error:
        store.disown(commit, str(error))
        return True
    return False


def _check(store: Store, unit: Unit, commit: Commit) -> None:
    """Read a result whose file says more than its digest.

    Raises:
        UserError, StoreError: it is not such a file, or is another unit's.
    """
    # Imported here because they import torch, which a plan without such units does not need.
    match unit:
        case MaskUnit() | FusedMaskUnit():
            from conceptprune.masks.mask import PruningMask
            from conceptprune.units.results import check_whose

            mask = PruningMask.from_bytes(store.load(commit, "mask"))
            check_whose(store, commit, mask, *unit.erased)
        case ShiftUnit():
            from conceptprune.units.rewording import load_shift

            load_shift(store, commit)
        case MomentsUnit() | VocabularyUnit():
            from conceptprune.units.rewording import load_moments

            load_moments(store, commit)
        case RewordUnit():
            from conceptprune.units.rewording import check_rewording

            check_rewording(store, commit, store.load(commit, "delta"), of=unit.erased)
