"""A kind of unit that nothing but this file knows goes all the way from the plan to the ledger."""

from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from conceptprune.store import Store
from conceptprune.store.claims import Claims
from conceptprune.units.commit import Done, Held, Made, UnitWorker
from conceptprune.units.sizes import Sizes
from conceptprune.units.unit import Need, Unit
from conceptprune.units.unit_plan import Planner, UnitPlan, labels_of
from pipelines.commands.plan import units_table
from pipelines.records.ledger import ledger_rows, read_ledger, write_ledger
from pipelines.records.reuse import find_units
from pipelines.scheduling.graph import Graph, committed_in, units_to_do
from pipelines.scheduling.kinds import is_intermediate, title_of
from pipelines.scheduling.loop import Result

SIZES = Sizes(
    shapes={}, item_bytes=4, latent_numbers=0, image_bytes=0, edited_bytes=0, same_bytes=0
)


@dataclass(frozen=True, slots=True)
class LetterUnit(Unit):
    """Write down a letter."""

    warm = True
    intermediate = True

    key: str

    @property
    def evaluations(self) -> int:
        """Seven a letter."""
        return 7


@dataclass(frozen=True, slots=True)
class WordUnit(Unit):
    """Put letters together."""

    title = "Words of letters"

    letters: tuple[str, ...]

    @property
    def key(self) -> str:
        """The word."""
        return "".join(self.letters)

    @property
    def needs(self) -> tuple[Need, ...]:
        """The letters."""
        return tuple((LetterUnit.kind, letter) for letter in self.letters)

    @property
    def detail(self) -> str:
        """How long it is."""
        return f"{len(self.letters)} letters"

    def bytes_written(self, sizes: Sizes, units: object) -> int:
        """A kilobyte a letter."""
        return 1000 * len(self.letters)


class Writer(UnitWorker):
    def make(self, unit: Unit) -> Made:
        match unit:
            case LetterUnit():
                text = unit.key
            case WordUnit():
                commits = [self.store.get(*need) for need in unit.needs]
                text = "".join(self.store.load(commit, "text").decode() for commit in commits)
            case _:
                raise TypeError(unit.kind)
        return Made(
            objects={"text": self.store.put(text.encode(), kind="text", model="m", suffix="txt")}
        )


@pytest.fixture
def plan() -> UnitPlan:
    planner = Planner()
    for word in ("ab", "ba"):
        planner.add(WordUnit(tuple(word)))
        for letter in word:
            planner.add(LetterUnit(letter))
    by_key = planner.in_order(LetterUnit, WordUnit)
    labels = labels_of(by_key, [("first", ["ab"]), ("second", ["ba"])])
    return UnitPlan(run="words", by_key=by_key, labels=labels)


def test_it_is_claimed_made_committed_and_found_again(plan: UnitPlan, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    writer = Writer(store, Claims(store, job="mine", worker="me"))
    graph = Graph.of(find_units(plan, store).todo)
    assert graph.open_warm_units == 2
    done = []
    while graph.ready:
        unit = graph.ready.popleft()
        with Claims(store, job="theirs", worker="they").held(unit.kind, unit.key):
            assert isinstance(writer.run_claimed(unit), Held)
        outcome = writer.run_claimed(unit)
        assert isinstance(outcome, Done)
        assert outcome.computed
        done.append(unit.key)
        graph.finish(unit)
    assert done == ["a", "b", "ab", "ba"]
    assert store.committed("word") == {"ab", "ba"}
    assert store.load(store.get("word", "ba"), "text") == b"ba"
    again = writer.run_claimed(plan.by_key["ba"])
    assert again == Done(commit=store.get("word", "ba"), computed=False)
    assert units_to_do(plan, committed_in(store)) == []
    # Letters are only for words: those that are gone are not written again.
    store.remove(["commits/letter/a.json", "commits/word/ab.json"])
    assert [unit.key for unit in find_units(plan, store).todo] == ["a", "ab"]


def test_the_ledger_says_what_its_class_says(plan: UnitPlan, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    writer = Writer(store)
    results = {
        unit.key: Result(unit=unit, status="done", attempts=1, commit=writer.run(unit))
        for unit in plan.units()
    }
    write_ledger(store, plan.run, ledger_rows(plan, todo=results, results=results, reused={}))
    rows = {row["key"]: row for row in read_ledger(store, plan.run)}
    assert [rows[key]["kind"] for key in ("a", "b", "ab", "ba")] == ["letter"] * 2 + ["word"] * 2
    assert (rows["a"]["evaluations"], rows["ab"]["evaluations"]) == (7, 0)
    assert (rows["a"]["detail"], rows["ab"]["detail"]) == ("", "2 letters")
    assert rows["a"]["concepts"] == ["first", "second"]
    assert rows["ab"]["concepts"] == ["first"]
    assert rows["ab"]["objects"] == [store.get("word", "ab").objects["text"].path]
    # A rerun takes all of it from there.
    assert set(find_units(plan, store).reused) == set(plan.by_key)


def test_readers_of_records_know_it_by_its_name() -> None:
    assert is_intermediate("letter")
    assert not is_intermediate("word")
    assert (title_of("letter"), title_of("word")) == ("Letter", "Words of letters")


def test_the_plan_counts_it_and_its_cost(plan: UnitPlan) -> None:
    sink = StringIO()
    Console(file=sink, width=120).print(units_table(list(plan.units()), {"ba"}, SIZES))
    lines = [line.split() for line in sink.getvalue().splitlines()]
    assert ["letter", "2", "14", "0", "bytes", "0", "0", "0", "bytes"] in lines
    assert ["word", "2", "0", "4.0", "kB", "1", "0", "2.0", "kB"] in lines
    assert ["total", "4", "14", "4.0", "kB", "1", "0", "2.0", "kB"] in lines
