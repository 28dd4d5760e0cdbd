"""What is true of every kind of unit: its name, and that nothing but its class says it."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from conceptprune.attacks.units import AttackSummaryUnit, AttackUnit
from conceptprune.evaluation.units import EvaluationUnit, ImagesUnit, SetScoresUnit
from conceptprune.store import Commit, Store
from conceptprune.units.find import find_commit
from conceptprune.units.unit import Unit, class_of, kinds_of
from conceptprune.units.unit_plan import Planner, labels_of
from conceptprune.units.units import FusedMaskUnit, GeneratedPromptsUnit, MaskUnit, WindowUnit


@dataclass(frozen=True, slots=True)
class LeafUnit(Unit):
    key: str


@dataclass(frozen=True, slots=True)
class BranchUnit(Unit):
    former_kinds = ("twig",)

    key: str
    leaves: tuple[str, ...]

    @property
    def needs(self) -> tuple[tuple[str, str], ...]:
        return tuple((LeafUnit.kind, key) for key in self.leaves)


@pytest.mark.parametrize(
    ("unit", "kind"),
    [
        (WindowUnit, "window"),
        (GeneratedPromptsUnit, "generated-prompts"),
        (MaskUnit, "mask"),
        (FusedMaskUnit, "fused-mask"),
        (ImagesUnit, "images"),
        (SetScoresUnit, "set-scores"),
        (EvaluationUnit, "evaluation"),
        (AttackUnit, "attack"),
        (AttackSummaryUnit, "attack-summary"),
    ],
)
def test_a_kind_is_called_like_its_class(unit: type[Unit], kind: str) -> None:
    assert unit.kind == kind
    assert class_of(kind) is unit


def test_two_classes_of_one_kind_are_refused() -> None:
    with pytest.raises(TypeError, match="units of the kind leaf"):
        type("LeafUnit", (Unit,), {"__module__": "elsewhere"})


def test_a_record_under_a_former_name_of_its_kind_is_found(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    earlier = Commit(kind="twig", key="k", objects={}, provenance={})
    store.commit(earlier)
    assert kinds_of("branch") == ("branch", "twig")
    assert find_commit(store, "branch", "k") == earlier
    assert find_commit(store, "leaf", "k") is None
    now = Commit(kind="branch", key="k", objects={}, provenance={})
    store.commit(now)
    assert find_commit(store, "branch", "k") == now


def test_a_kind_that_no_module_has_goes_by_its_one_name() -> None:
    assert class_of("of-a-later-version") is None
    assert kinds_of("of-a-later-version") == ("of-a-later-version",)


def test_a_planner_keeps_equal_units_once_and_orders_them_by_kind() -> None:
    planner = Planner()
    for unit in (BranchUnit("x", ("a",)), LeafUnit("a"), LeafUnit("b"), LeafUnit("a")):
        planner.add(unit)
    assert list(planner.in_order(LeafUnit, BranchUnit)) == ["a", "b", "x"]
    # A unit of a kind that was left out of the order would never be done.
    with pytest.raises(ValueError, match="BranchUnit"):
        planner.in_order(LeafUnit)


def test_a_label_goes_to_all_that_is_needed_for_it_and_to_nothing_else() -> None:
    units = [LeafUnit("a"), LeafUnit("b"), BranchUnit("x", ("a",)), BranchUnit("y", ("a", "b"))]
    by_key: dict[str, Unit] = {unit.key: unit for unit in units}
    assert labels_of(by_key, [("one", ["x"]), ("two", ["y"])]) == {
        "x": ("one",),
        "a": ("one", "two"),
        "y": ("two",),
        "b": ("two",),
    }
    assert labels_of(by_key, []) == {}
