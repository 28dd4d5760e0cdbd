"""What a run of `erase` collected according to its ledger: prompts, and keys of statistics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from conceptprune.prompts.pairs import PromptPair, prompts_digest
from conceptprune.store import Store
from conceptprune.units.find import find_commit
from conceptprune.units.stored_prompts import load_pairs
from conceptprune.units.units import PROMPTS_KINDS

from .earlier import completed
from .ledger import Ledger, need_of
from .run_record import RunRecord

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """The prompts of a run and their statistics."""

    rows: Sequence[Row]
    """The ledger; one of an earlier version is completed (`earlier.py`)."""
    pairs: Mapping[str, tuple[PromptPair, ...]]
    """The prompt pairs found in the store, by concept name."""
    statistics: Mapping[str, str]
    """Keys of statistics by the digest of their prompts."""

    @classmethod
    def of(cls, store: Store, record: RunRecord, ledger: Ledger) -> "Collected":
        """Read everything that a run's ledger refers to.

        Raises:
            UnknownFormatError: a later version recorded the prompts.
            StoreError: an object is missing or damaged.
        """
        rows = ledger.rows
        if ledger.is_earlier:
            rows = completed(store, record.asked, rows)
        pairs: dict[str, tuple[PromptPair, ...]] = {}
        for row in rows:
            made = row["kind"] in PROMPTS_KINDS
            commit = find_commit(store, row["kind"], row["key"]) if made else None
            if commit is not None:
                pairs |= load_pairs(store, commit)
        return cls(
            rows=rows,
            pairs=pairs,
            statistics={row["prompts"]: row["key"] for row in rows if row["prompts"]},
        )

    def sides(self, concept: str) -> tuple[str | None, str | None]:
        """Keys of a concept's (target, base) statistics; None for a side not collected.

        Raises:
            KeyError: the concept's prompts are not in the store.
        """
        pairs = self.pairs[concept]
        target = prompts_digest([pair.target for pair in pairs])
        base = prompts_digest([pair.base for pair in pairs])
        return self.statistics.get(target), self.statistics.get(base)


def compared(row: Row) -> list[str]:
    """Keys of the statistics that a mask compares, in the order of its unit's needs."""
    needs = (need_of(text) for text in row["needs"])
    return [key for kind, key in needs if kind == "statistics"]
