"""The combined checkpoint of a run as its ledger has it: which mask it is, and whom it lacks."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .ledger import is_fused, is_own_mask


def fused_row(rows: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The row of the one mask of all concepts; None where a run asks for none.

    Where concepts failed there are two: that of all, which is blocked, and behind it that of the
    others, which is the run's combined checkpoint until a rerun makes the first.
    """
    found = [row for row in rows if is_fused(row)]
    made = [row for row in found if row["objects"]]
    return next(iter(made or found[-1:]), None)


def lacking(fused: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Names of the run's concepts that are not in a fused mask, in the ledger's order."""
    inside = set(fused["needs"])
    if not inside:
        # Ledgers before ledger/3 do not say, and were of all concepts.
        return ()
    return tuple(
        row["concepts"][0]
        for row in rows
        if is_own_mask(row) and f"mask/{row['key']}" not in inside
    )
