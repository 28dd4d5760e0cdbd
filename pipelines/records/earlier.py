"""Ledgers of earlier versions (ledger/1 and /2), which do not name everything a run refers to.

They have no row for the units that made the prompts, no `needs`, and do not say which prompts
statistics were collected from. The store still tells: masks and statistics name their prompts by
digest. Nothing is planned again.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from conceptprune.collection.statistics import said_of
from conceptprune.errors import UserError
from conceptprune.masks.mask import PruningMask
from conceptprune.prompts.pairs import PromptPair, prompts_digest
from conceptprune.prompts.table import Pairs
from conceptprune.store import (
    Commit,
    LostUnitError,
    Store,
    UnknownFormatError,
    load_table,
)
from conceptprune.units.stored_prompts import load_pairs
from conceptprune.units.unit import Need
from conceptprune.units.units import PROMPTS_KINDS

from .asked import Asked
from .evaluation import EvaluationRecord
from .ledger import empty_row, is_own_mask, made_by

Row = dict[str, Any]


def needs_beside_rows(store: Store) -> Iterator[Need]:
    """All prompt units: such a run refers to some of them, but does not record which."""
    for kind in PROMPTS_KINDS:
        yield from ((kind, key) for key in store.committed(kind))


def edits_beside_rows(store: Store, run: str) -> frozenset[str]:
    """Paths of the masks and deltas that such an evaluation applies but did not make."""
    record = EvaluationRecord.read(store, run)
    return frozenset() if record is None else record.edits


def completed(store: Store, asked: Asked, rows: Sequence[Row]) -> list[Row]:
    """The rows of such a run of `erase`, in the form of today's ledgers.

    Raises:
        StoreError: an object is missing or damaged.
    """
    digests = {
        row["key"]: digest
        for row in rows
        if row["kind"] == "statistics" and (digest := _prompts_of_statistics(store, row))
    }
    own = [row for row in rows if is_own_mask(row)]
    made = _Prompts.of(store, asked, own, digests.values())
    by_digest = {digest: key for key, digest in digests.items()}
    return [
        *made.rows,
        *(
            {
                **row,
                "prompts": digests.get(row["key"]),
                "needs": _sides(store, asked, row, made.pairs, by_digest),
            }
            for row in rows
        ),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prompts:
    """A run's prompts, and the rows of the units that made them."""

    rows: list[Row]
    pairs: Pairs

    @classmethod
    def of(
        cls, store: Store, asked: Asked, own: Collection[Row], collected: Collection[str]
    ) -> "_Prompts":
        """The prompts of a run, found by its concepts' mask rows `own`.

        Another run may have other prompts for the same concepts. A finished mask compares collected
        statistics, so prompts for it that are not `collected` (digests) are not this run's.
        """
        erased = {concept.name for concept in asked.concepts}
        done = {row["concepts"][0] for row in own if row["objects"]}
        found: list[tuple[int, Commit, Pairs]] = []
        for kind, key in sorted(needs_beside_rows(store)):
            try:
                commit = store.find(kind, key)
                if commit is None:
                    continue
                pairs = load_pairs(store, commit)
            except (LostUnitError, UnknownFormatError):
                # Perhaps another run's; if it is this one's, its concepts are left without prompts.
                continue
            matching = {name for name in pairs if _digests(pairs[name]) <= set(collected)}
            if pairs.keys() <= erased | set(asked.retained) and done & pairs.keys() <= matching:
                found.append((len(matching), commit, pairs))
        # The best match comes last, because later prompts replace earlier ones.
        found.sort(key=lambda each: each[0])
        together: dict[str, tuple[PromptPair, ...]] = {}
        for _, _, made in found:
            together.update(made)
        rows = [_row(commit, sorted(made.keys() & erased)) for _, commit, made in found]
        return cls(rows=rows, pairs=together)


def _row(commit: Commit, concepts: list[str]) -> Row:
    made = made_by(commit)
    finished = made["finished"]
    return {
        **empty_row(),
        "kind": commit.kind,
        "key": commit.key,
        "concepts": concepts,
        "status": "done",
        **made,
        # As in a ledger that was read back.
        "finished": None if finished is None else datetime.fromtimestamp(finished / 1000, UTC),
    }


def _digests(pairs: Sequence[PromptPair]) -> set[str]:
    """The digests of the target prompts and of the base prompts."""
    return {
        prompts_digest([pair.target for pair in pairs]),
        prompts_digest([pair.base for pair in pairs]),
    }


def _prompts_of_statistics(store: Store, row: Row) -> str | None:
    commit = store.find("statistics", row["key"])
    if commit is None:
        return None
    table = load_table(store, commit, "statistics")
    try:
        digest = said_of(table).get("prompts")
    except ValueError:
        return None
    return digest if isinstance(digest, str) else None


def _sides(
    store: Store, asked: Asked, row: Row, pairs: Pairs, by_digest: Mapping[str, str]
) -> list[str]:
    """The statistics that a concept's mask compares, as `needs`; empty unless all are known."""
    commit = store.find("mask", row["key"]) if is_own_mask(row) and row["objects"] else None
    if commit is None:
        return []
    try:
        provenance = PruningMask.from_bytes(store.load(commit, "mask")).provenance
    except UserError:
        return []
    own = provenance.get("prompts_digest") or {}
    digests = [own.get("target"), own.get("base")]
    if provenance.get("base") != "plain":
        others = (name for name in asked.retained if name != row["concepts"][0])
        digests += [_target(pairs, name) for name in others]
    keys = [by_digest.get(digest or "") for digest in digests]
    return [f"statistics/{key}" for key in keys] if all(keys) else []


def _target(pairs: Pairs, name: str) -> str | None:
    return prompts_digest([pair.target for pair in pairs[name]]) if name in pairs else None
