"""The graph of units: every unit once, after all it needs, and a failure blocks only its heirs."""

from dataclasses import dataclass
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from conceptprune.units.unit import Need, Unit
from conceptprune.units.unit_plan import UnitPlan
from pipelines.scheduling.graph import Graph, units_to_do


@dataclass(frozen=True)
class StepUnit(Unit):
    """As much of a unit as a graph looks at; others may need it, and it is a result by itself."""

    key: str
    needs: tuple[Need, ...] = ()


@dataclass(frozen=True)
class HiddenUnit(StepUnit):
    """One that is only done for those that need it, and on a warm actor."""

    warm = True
    intermediate = True


@st.composite
def plans(draw: st.DrawFn) -> list[Unit]:
    """Units of which each may need any of the earlier ones."""
    count = draw(st.integers(1, 12))
    units: list[Unit] = []
    for index in range(count):
        needs = draw(st.sets(st.sampled_from(units), max_size=3)) if units else set()
        units.append(StepUnit(str(index), tuple(sorted(("step", need.key) for need in needs))))
    return units


def heirs(units: list[Unit], key: str) -> set[str]:
    found = {key}
    for unit in units:
        if any(need in found for _, need in unit.needs):
            found.add(unit.key)
    return found - {key}


@given(units=plans(), data=st.data())
def test_units_finished_in_any_order_become_ready_once_and_after_their_needs(
    units: list[Any], data: st.DataObject
) -> None:
    graph = Graph.of(units)
    finished: list[str] = []
    running: list[Any] = []
    while graph.ready or running:
        while graph.ready:
            running.append(graph.ready.popleft())
        unit = running.pop(data.draw(st.integers(0, len(running) - 1)))
        assert {need for _, need in unit.needs} <= set(finished)
        finished.append(unit.key)
        graph.finish(unit)
    assert sorted(finished) == sorted(unit.key for unit in units)


@given(units=plans(), data=st.data())
def test_a_failure_blocks_its_heirs_and_nobody_else(units: list[Any], data: st.DataObject) -> None:
    poison = data.draw(st.sampled_from(units)).key
    graph = Graph.of(units)
    finished: set[str] = set()
    blocked: list[str] = []
    while graph.ready:
        unit = graph.ready.popleft()
        if unit.key == poison:
            blocked += [heir.key for heir in graph.fail(unit)]
        else:
            finished.add(unit.key)
            graph.finish(unit)
    assert sorted(blocked) == sorted(heirs(units, poison))
    assert finished == {unit.key for unit in units} - {poison} - set(blocked)


def test_a_failure_blocks_a_chain_of_any_length() -> None:
    units: list[Any] = [StepUnit("0")]
    units += [StepUnit(str(index), (("step", str(index - 1)),)) for index in range(1, 2000)]
    graph = Graph.of(units)
    assert [unit.key for unit in graph.fail(units[0])] == [unit.key for unit in units[1:]]


def test_a_need_outside_the_graph_counts_as_committed() -> None:
    assert [unit.key for unit in Graph.of([StepUnit("a", (("step", "gone"),))]).ready] == ["a"]


def left(*done: str) -> list[str]:
    """What is left of a plan with a result that needs a hidden unit that needs another one."""
    hidden = [HiddenUnit("w"), HiddenUnit("s", (("hidden", "w"),))]
    units: list[Unit] = [*hidden, StepUnit("m", (("hidden", "s"),))]
    plan = UnitPlan(run="r", by_key={unit.key: unit for unit in units}, labels={})
    return [unit.key for unit in units_to_do(plan, lambda _, key: key in done)]


def test_only_what_an_unfinished_result_needs_is_left_to_do() -> None:
    assert left() == ["w", "s", "m"]
    assert left("w") == ["s", "m"]
    assert left("s") == ["m"]
    # Statistics that were removed are not made again for a mask that is there.
    assert left("m") == []


def test_a_lost_unit_is_handed_out_once_for_all_that_miss_it() -> None:
    lost, first, second = HiddenUnit("w"), StepUnit("s1"), StepUnit("s2")
    graph = Graph.of([first, second])
    graph.ready.clear()
    assert graph.open_warm_units == 0
    assert graph.put_back(lost, first)
    assert not graph.put_back(lost, second)
    assert graph.open_warm_units == 1
    graph.finish(lost)
    assert [unit.key for unit in graph.ready] == ["s1", "s2"]
    assert graph.open_warm_units == 0
