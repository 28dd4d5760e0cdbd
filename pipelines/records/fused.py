"""A run's combined checkpoint in its ledger: which mask it is, and which concepts it lacks."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .ledger import is_fused, is_own_mask


def fused_row(rows: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The row of the mask that combines the concepts; None if the run asks for none.

    If concepts failed there are two: the mask of all concepts, which is blocked, and after it the
    mask of the others, which is the run's combined checkpoint until a rerun makes the full one.
    """
    found = [row for row in rows if is_fused(row)]
    made = [row for row in found if row["objects"]]
    return next(iter(made or found[-1:]), None)


def lacking(fused: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Names of the run's concepts that are not in a fused mask, in the ledger's order."""
    inside = set(fused["needs"])
    if not inside:
        # Ledgers before ledger/3 have no needs; their fused masks combine all concepts.
        return ()
    return tuple(
        row["concepts"][0]
        for row in rows
        if is_own_mask(row) and f"mask/{row['key']}" not in inside
    )
