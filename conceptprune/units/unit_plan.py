"""The base of every job's plan, and how planners gather its units."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from conceptprune.units.unit import Unit

U = TypeVar("U", bound=Unit)

Labelled = Iterable[tuple[str, Iterable[str]]]
"""(label, keys of units that are for it)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitPlan:
    """Everything a job will do; a unit with several purposes occurs once."""

    run: str
    """The run's id."""
    by_key: Mapping[str, Unit]
    """Every unit by its key, each after all that it needs."""
    labels: Mapping[str, tuple[str, ...]]
    """What each unit is for, by key: names of concepts, or labels of checkpoints."""

    def units(self) -> Collection[Unit]:
        """Every unit once, each after all that it needs."""
        return self.by_key.values()

    def of(self, kind: type[U]) -> dict[str, U]:
        """The units of one kind, by key and in order."""
        return {key: unit for key, unit in self.by_key.items() if isinstance(unit, kind)}


class Planner:
    """Gathers the units of one plan; equal units are merged by their keys."""

    def __init__(self) -> None:
        self._units: dict[str, Unit] = {}

    def add(self, unit: U) -> U:
        """Put a unit on the plan."""
        self._units.setdefault(unit.key, unit)
        return unit

    def in_order(self, *kinds: type[Unit]) -> dict[str, Unit]:
        """All units by key: sorted by kind, and within a kind in the order they were added.

        Raises:
            ValueError: a unit's kind is not in the order.
        """
        by_kind: dict[type[Unit], dict[str, Unit]] = {kind: {} for kind in kinds}
        for key, unit in self._units.items():
            if type(unit) not in by_kind:
                raise ValueError(f"the plan has no place for units of {type(unit).__name__}")
            by_kind[type(unit)][key] = unit
        return {key: unit for units in by_kind.values() for key, unit in units.items()}


def labels_of(by_key: Mapping[str, Unit], labelled: Labelled) -> dict[str, tuple[str, ...]]:
    """Unit key -> labels, in order: for the named units and all units they need."""
    found: dict[str, dict[str, None]] = {}
    for label, keys in labelled:
        pending = list(keys)
        seen: set[str] = set()
        while pending:
            key = pending.pop()
            if key not in seen:
                seen.add(key)
                found.setdefault(key, {})[label] = None
                pending += [need for _, need in by_key[key].needs]
    return {key: tuple(labels) for key, labels in found.items()}
