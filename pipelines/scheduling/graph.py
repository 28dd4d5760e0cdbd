"""Which units of a plan have to run, and in what order they become ready."""

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from conceptprune.store import Store
from conceptprune.units.unit import Need, Unit
from conceptprune.units.unit_plan import UnitPlan

from .kinds import kinds_of

Committed = Callable[[str, str], bool]
"""Whether the store has (kind, key)."""


def committed_in(store: Store) -> Committed:
    """A snapshot of the store's units, also under former names of a kind.

    Each kind is listed at its first use.
    """
    keys: dict[str, frozenset[str]] = {}

    def committed(kind: str, key: str) -> bool:
        for name in kinds_of(kind):
            if name not in keys:
                keys[name] = store.committed(name)
            if key in keys[name]:
                return True
        return False

    return committed


def units_to_do(plan: UnitPlan, committed: Committed) -> list[Unit]:
    """The plan's units that must run: unfinished results and what they need."""
    units = plan.by_key
    wanted: set[str] = set()
    pending = [key for key, unit in units.items() if not unit.intermediate]
    while pending:
        unit = units[pending.pop()]
        if unit.key not in wanted and not committed(unit.kind, unit.key):
            wanted.add(unit.key)
            pending += [key for _, key in unit.needs]
    return [unit for key, unit in units.items() if key in wanted]


@dataclass(slots=True)
class Graph:
    """Units still to do; hands out those whose needs are met, in the order of the plan."""

    ready: deque[Unit] = field(default_factory=deque)
    open_warm_units: int = 0
    """Number of units for warm actors that have no result yet."""
    _open: dict[str, Unit] = field(default_factory=dict)
    """Units without a result yet, by key: ready, waiting or handed out."""
    _missing: dict[str, set[Need]] = field(default_factory=dict)
    _waiting: dict[Need, list[Unit]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def of(cls, units: Iterable[Unit]) -> "Graph":
        """A graph of `units`; needs outside of them count as committed."""
        graph = cls()
        for unit in units:
            graph._add(unit)
        inside: set[Need] = {(unit.kind, unit.key) for unit in graph._open.values()}
        for unit in graph._open.values():
            missing: set[Need] = {need for need in unit.needs if need in inside}
            if missing:
                graph._missing[unit.key] = missing
                for need in missing:
                    graph._waiting[need].append(unit)
            else:
                graph.ready.append(unit)
        return graph

    def finish(self, unit: Unit) -> None:
        """Mark a unit done; units that waited only for it become ready."""
        need = (unit.kind, unit.key)
        self._close(unit)
        for waiting in self._waiting.pop(need, []):
            missing = self._missing.get(waiting.key)
            if missing is None:
                continue  # It is blocked by another of its needs.
            missing.discard(need)
            if not missing:
                del self._missing[waiting.key]
                self.ready.append(waiting)

    def fail(self, unit: Unit) -> Iterator[Unit]:
        """Give up a unit; yields the units that can therefore never run."""
        # Not recursive: each window of a long trajectory needs the one before it.
        given_up = [unit]
        while given_up:
            unit = given_up.pop()
            self._close(unit)
            for waiting in self._waiting.pop((unit.kind, unit.key), []):
                if self._missing.pop(waiting.key, None) is not None:
                    yield waiting
                    given_up.append(waiting)

    def put_back(self, lost: Unit, unit: Unit) -> bool:
        """Make `unit`, which had been handed out, wait until `lost` has been computed again.

        Returns:
            Whether `lost` has to be handed out; False if it is already being computed.
        """
        need = (lost.kind, lost.key)
        self._missing.setdefault(unit.key, set()).add(need)
        self._waiting[need].append(unit)
        if lost.key in self._open:
            return False
        self._add(lost)
        return True

    def _add(self, unit: Unit) -> None:
        if unit.key not in self._open:
            self._open[unit.key] = unit
            self.open_warm_units += unit.warm

    def _close(self, unit: Unit) -> None:
        if self._open.pop(unit.key, None) is not None:
            self.open_warm_units -= unit.warm
