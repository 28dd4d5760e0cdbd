"""A run's combined checkpoint in its ledger: what made it, and which concepts it lacks."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from .ledger import is_combined

How = Literal["fused", "reworded"]

REWORD = "reword"
"""The kind of the units that reword all concepts at once; every other combined row is of a mask."""

OF_ONE_CONCEPT = {REWORD: "shift"}
"""By kind, what it needs of each concept: by default the concept's own mask."""


def combined_row(rows: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The row of what combines the concepts, a mask or a rewording; None if the run asks for none.

    If concepts failed there are two: that of all concepts, which is blocked, and after it that of
    the others, which is the run's combined checkpoint until a rerun makes the full one.
    """
    found = [row for row in rows if is_combined(row)]
    made = [row for row in found if row["objects"]]
    return next(iter(made or found[-1:]), None)


def how_combined(row: Mapping[str, Any]) -> How:
    """What a combined row's unit did: only a rewording's object is a delta, and not a mask."""
    return "reworded" if row["kind"] == REWORD else "fused"


def inside(combined: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Names of the run's concepts in a combined checkpoint, in its own order."""
    own = _own(combined, rows)
    if not combined["needs"]:
        # Ledgers before ledger/3 have no needs; their fused masks combine all concepts.
        return tuple(own.values())
    return tuple(own[need] for need in combined["needs"] if need in own)


def lacking(combined: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Names of the run's concepts that are not in a combined checkpoint, in the ledger's order."""
    there = set(inside(combined, rows))
    return tuple(name for name in _own(combined, rows).values() if name not in there)


def _own(combined: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """By "kind/key", whose each unit is that makes a single concept's part of it."""
    kind = OF_ONE_CONCEPT.get(combined["kind"], "mask")
    return {
        f"{kind}/{row['key']}": row["concepts"][0]
        for row in rows
        if row["kind"] == kind and len(row["concepts"]) == 1
    }
