"""Totals of ledger rows."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .values import Cost, Failure, KindCost, Status

Row = Mapping[str, Any]


def cost_of(rows: Sequence[Row], shares: Mapping[str, float]) -> Cost:
    """The cost of units; if a unit's key has a share, only that share counts."""
    kinds: dict[str, list[Row]] = {}
    for row in rows:
        if row["seconds"] is not None:
            kinds.setdefault(row["kind"], []).append(row)
    parts = tuple(
        KindCost(
            kind=kind,
            units=len(done),
            seconds=sum(row["seconds"] * shares.get(row["key"], 1) for row in done),
            evaluations=sum(row["evaluations"] * shares.get(row["key"], 1) for row in done),
            size=sum(row["bytes"] * shares.get(row["key"], 1) for row in done),
        )
        for kind, done in kinds.items()
    )
    return Cost(
        evaluations=sum(part.evaluations for part in parts),
        seconds=sum(part.seconds for part in parts),
        size=sum(part.size for part in parts),
        units=Counter(row["status"] for row in rows),
        kinds=parts,
    )


def status_of(rows: Sequence[Row]) -> Status:
    """The status of a concept, from the statuses of its units."""
    statuses = {row["status"] for row in rows}
    if statuses & {"failed", "blocked"}:
        return "failed"
    return "unfinished" if "pending" in statuses else "done"


def failures_of(rows: Iterable[Row]) -> tuple[Failure, ...]:
    """The units that failed, without those that were only blocked by them."""
    return tuple(
        Failure(
            unit=f"{row['kind']} {row['key'][:12]} ({row['detail']})",
            attempts=row["attempts"],
            error=row["error"] or "",
        )
        for row in rows
        if row["status"] == "failed"
    )


def blocked_in(rows: Iterable[Row]) -> tuple[str, ...]:
    """What could not be made because it needs something that failed, in a line per reason."""
    groups: dict[str, Counter[str]] = {}
    for row in rows:
        if row["status"] == "blocked":
            groups.setdefault(row["error"] or "", Counter())[row["kind"]] += 1
    return tuple(
        ", ".join(f"{number} {kind} {'unit' if number == 1 else 'units'}" for kind, number in these)
        + (f": {reason}" if reason else "")
        for reason, these in ((reason, kinds.items()) for reason, kinds in groups.items())
    )


def files_of(paths: Sequence[str]) -> str:
    """The path of a single file, or the number of files."""
    return paths[0] if len(paths) == 1 else f"{len(paths)} files"
