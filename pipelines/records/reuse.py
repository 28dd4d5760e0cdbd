"""What a job finds in the store for its plan: what is left to do, and what it reuses."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from conceptprune.errors import StoreError, UserError
from conceptprune.store import Store
from conceptprune.units.find import find_commit
from conceptprune.units.unit import Unit
from conceptprune.units.unit_plan import UnitPlan
from conceptprune.units.units import MaskUnit

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
    read, which `verify` does here for every result.

    Raises:
        StoreError: the store cannot be read, or damage cannot be moved aside.
    """
    committed = committed_in(store)
    units = units_to_do(plan, committed)
    reused = reused_units(plan, store, {unit.key for unit in units}, committed)
    results = [
        unit for unit in plan.units() if not unit.intermediate and committed(unit.kind, unit.key)
    ]
    suspects = results if verify else _cut_short(results, store, reused)
    with ThreadPoolExecutor(READERS) as readers:
        found = readers.map(lambda unit: _is_lost(store, unit), suspects)
        lost = {unit.key for unit, is_lost in zip(suspects, found, strict=True) if is_lost}
    if lost:
        units = units_to_do(plan, lambda kind, key: key not in lost and committed(kind, key))
        todo = {unit.key for unit in units}
        reused = {key: made for key, made in reused.items() if key not in todo}
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
    if isinstance(unit, MaskUnit):
        # Imported here because they import torch, which a plan without masks does not need.
        from conceptprune.masks.mask import PruningMask
        from conceptprune.units.results import check_whose

        try:
            mask = PruningMask.from_bytes(store.load(commit, "mask"))
            check_whose(store, commit, mask, unit.concept)
        except (UserError, StoreError) as error:
            store.disown(commit, str(error))
            return True
    return False
