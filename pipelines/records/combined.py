"""A run's combined checkpoint in its ledger: what made it, and which concepts it lacks."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from .ledger import is_combined

How = Literal["fused", "reworded"]
Row = Mapping[str, Any]

REWORD = "reword"
"""The kind of the units that reword all concepts at once; every other combined row is of a mask."""


def combined_row(rows: Iterable[Row]) -> Row | None:
    """The row of what combines the concepts, a mask or a rewording; None if the run asks for none.

    If concepts failed there are two: that of all concepts, which is blocked, and after it that of
    the others, which is the run's combined checkpoint until a rerun makes the full one.
    """
    found = [row for row in rows if is_combined(row)]
    made = [row for row in found if row["objects"]]
    return next(iter(made or found[-1:]), None)


def part_kind(kind: str) -> str:
    """By the kind of what combines the concepts, the kind of the unit that makes one's part."""
    return "shift" if kind == REWORD else "mask"


def how_combined(row: Row) -> How:
    """What a combined row's unit did: only a rewording's object is a delta, and not a mask."""
    return "reworded" if row["kind"] == REWORD else "fused"


def role_of(row: Row) -> str:
    """Under which role a mask's or a rewording's record names its file."""
    return "delta" if row["kind"] == REWORD else "mask"


def inside(combined: Row, rows: Sequence[Row]) -> tuple[str, ...]:
    """Names of the run's concepts in a combined checkpoint, in its own order."""
    own = {f"{row['kind']}/{row['key']}": name for name, row in parts_of(combined, rows).items()}
    if not combined["needs"]:
        # Ledgers before ledger/3 have no needs; their fused masks combine all concepts.
        return tuple(own.values())
    return tuple(own[need] for need in combined["needs"] if need in own)


def lacking(combined: Row, rows: Sequence[Row]) -> tuple[str, ...]:
    """Names of the run's concepts that are not in a combined checkpoint, in the ledger's order."""
    there = set(inside(combined, rows))
    return tuple(name for name in parts_of(combined, rows) if name not in there)


def parts_of(combined: Row, rows: Sequence[Row]) -> dict[str, Row]:
    """By concept, the row of the unit that makes, or should make, its part: its mask or sums."""
    kind = part_kind(combined["kind"])
    return {
        row["concepts"][0]: row for row in rows if row["kind"] == kind and len(row["concepts"]) == 1
    }
