"""What a run of `evaluate` or `attack` was asked to do, as the store remembers it."""

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from conceptprune.attacks.units import AttackSummaryUnit
from conceptprune.digest import canonical_json
from conceptprune.evaluation.units import EvaluationUnit
from conceptprune.store import Commit, Store

from .ledger import told_if_damaged

if TYPE_CHECKING:
    from conceptprune.evaluation.checkpoint import Checkpoint

RUN_FILE = "evaluation.json"
"""Not a run.json: that is a run of `erase`, from which there is a report."""

SUMMARY_KINDS = (EvaluationUnit.kind, AttackSummaryUnit.kind)
"""Kinds of units that end in a summary (`conceptprune.evaluation.summary`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRecord:
    """One evaluation: its suite, its checkpoints, and the key of its summary."""

    run: str
    suite: Mapping[str, Any]
    """As validated, without the model, whose folder is a matter of the machine."""
    checkpoints: tuple[Mapping[str, Any], ...]
    """Label, kind, digest and erased concepts of each, and the path of the edit it applies."""
    summary: str
    """Key of the unit that ends it: an `EvaluationUnit` or an `AttackSummaryUnit`."""
    started: float

    @classmethod
    def of(
        cls, run: str, checkpoints: "Iterable[Checkpoint]", summary: str, suite: Mapping[str, Any]
    ) -> "EvaluationRecord":
        """The record of an evaluation, or of attacks, that start now."""
        return cls(
            run=run,
            suite=suite,
            checkpoints=tuple(
                {
                    "label": checkpoint.label,
                    "kind": checkpoint.kind,
                    "digest": checkpoint.digest,
                    "erased": list(checkpoint.erased),
                    "edit": checkpoint.drawn.edit.ref.path if checkpoint.drawn.edit else None,
                }
                for checkpoint in checkpoints
            ),
            summary=summary,
            started=time.time(),
        )

    @property
    def name(self) -> str:
        """The suite's name."""
        name: str = self.suite["name"]
        return name

    @property
    def labels(self) -> list[str]:
        """The checkpoints' labels."""
        return [checkpoint["label"] for checkpoint in self.checkpoints]

    @property
    def edits(self) -> frozenset[str]:
        """Paths in the store of the masks and deltas that are applied."""
        # The first versions did not record them.
        return frozenset(path for each in self.checkpoints if (path := each.get("edit")))

    def write(self, store: Store) -> None:
        """Write or replace the record."""
        content = {
            "format": "conceptprune.evaluation-run/1",
            "run": self.run,
            "suite": self.suite,
            "checkpoints": list(self.checkpoints),
            "summary": self.summary,
            "started": self.started,
        }
        store.write_run_file(self.run, RUN_FILE, canonical_json(content).encode())

    @classmethod
    def read(cls, store: Store, run: str) -> "EvaluationRecord | None":
        """The record of a run; None where the run is no evaluation.

        Raises:
            StoreError: it is damaged.
        """
        data = store.read_run_file(run, RUN_FILE)
        if data is None:
            return None
        with told_if_damaged(store, run, RUN_FILE):
            content = json.loads(data)
            del content["format"]
            content["checkpoints"] = tuple(content["checkpoints"])
            return cls(**content)


def evaluation_records(store: Store) -> list[EvaluationRecord]:
    """Records of a store's evaluations, the newest first.

    Raises:
        StoreError: one is damaged.
    """
    found = (EvaluationRecord.read(store, run) for run in store.runs())
    records = [record for record in found if record is not None]
    return sorted(records, key=lambda record: (record.started, record.run), reverse=True)


def summary_commits(store: Store) -> list[Commit]:
    """Commit records of a store's summaries, of evaluations and of attacks; in no order."""
    found = (store.find(kind, key) for kind in SUMMARY_KINDS for key in store.committed(kind))
    return [commit for commit in found if commit is not None]
