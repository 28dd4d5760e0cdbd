"""What a ledger says of a run's combined checkpoint, be it a fused mask or a rewording."""

from typing import Any

import pytest

from pipelines.records.combined import combined_row, how_combined, inside, lacking
from pipelines.records.ledger import empty_row, is_combined, read_ledger
from tests.pipelines.conftest import CONCEPTS, TinyStore

ADA, CY, LAST = CONCEPTS


def row(kind: str, key: str, *concepts: str, **more: Any) -> dict[str, Any]:
    return {**empty_row(), "kind": kind, "key": key, "concepts": list(concepts), **more}


MASKS = [row("mask", "a", ADA), row("mask", "c", CY)]
SHIFTS = [row("shift", "1", ADA), row("shift", "2", CY)]
SUMS = [row("moments", "3", ADA, CY), row("moments", "4")]


@pytest.mark.parametrize(
    ("rows", "how", "names", "without"),
    [
        # Earlier versions called a fused mask a mask, and wrote no needs.
        ([row("mask", "f")], "fused", (ADA, CY), ()),
        ([row("fused-mask", "f", needs=["mask/c", "mask/a"])], "fused", (CY, ADA), ()),
        ([row("fused-mask", "f", needs=["mask/c"])], "fused", (CY,), (ADA,)),
        (
            [*SHIFTS, *SUMS, row("reword", "r", needs=["shift/2", "shift/1"])],
            "reworded",
            (CY, ADA),
            (),
        ),
        (
            [*SHIFTS, *SUMS, row("reword", "r", needs=["shift/2", "moments/3"])],
            "reworded",
            (CY,),
            (ADA,),
        ),
    ],
)
def test_who_is_in_a_combined_checkpoint_is_read_off_what_it_needs(
    rows: list[dict[str, Any]], how: str, names: tuple[str, ...], without: tuple[str, ...]
) -> None:
    rows = [*MASKS, *rows]
    found = combined_row(rows)
    assert found is rows[-1]
    assert how_combined(found) == how
    assert inside(found, rows) == names
    assert lacking(found, rows) == without


def test_the_one_that_is_made_is_the_run_s_until_there_is_a_whole_one() -> None:
    whole = row("reword", "r", needs=["shift/1", "shift/2"], status="blocked")
    of_the_rest = row("reword", "s", needs=["shift/1"], objects=["objects/delta/x"])
    assert combined_row([*SHIFTS, whole, of_the_rest]) is of_the_rest
    assert combined_row([*SHIFTS, whole]) is whole
    assert combined_row([*SHIFTS, *MASKS]) is None


def test_of_a_finished_run_s_ledger_it_is_the_rewording_of_all(reworded_store: TinyStore) -> None:
    rows = read_ledger(reworded_store.store, reworded_store.plan.run)
    found = combined_row(rows)
    assert found
    assert reworded_store.plan.combined
    assert found["key"] == reworded_store.plan.combined.key
    assert [each["kind"] for each in rows if is_combined(each)] == ["reword"]
    assert inside(found, rows) == CONCEPTS
