"""What a run of `evaluate` or `attack` was asked to do, as the store remembers it."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from conceptprune import __version__
from conceptprune.attacks.units import AttackSummaryUnit
from conceptprune.digest import METHOD_VERSION, canonical_json
from conceptprune.evaluation.units import EvaluationUnit
from conceptprune.store import Commit, Store, UnknownFormatError

from .fields import count_field, field, is_later, json_object, time_field
from .run_files import first_started, told_if_damaged

if TYPE_CHECKING:
    from conceptprune.evaluation.checkpoint import Checkpoint

RUN_FILE = "evaluation.json"
"""Not run.json, which marks a run of `erase`, for which a report can be made."""
RUN_FORMAT = "conceptprune.evaluation-run/1"

SUMMARY_KINDS = (EvaluationUnit.kind, AttackSummaryUnit.kind)
"""Kinds of units that end in a summary (`conceptprune.evaluation.summary`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRecord:
    """One evaluation: its suite, its checkpoints, and the key of its summary."""

    run: str
    suite: Mapping[str, Any]
    """As validated, but without the model, whose folder depends on the machine."""
    checkpoints: tuple[Mapping[str, Any], ...]
    """Label, kind, digest and erased concepts of each, and the path of the edit it applies."""
    summary: str
    """Key of the unit that ends it: an `EvaluationUnit` or an `AttackSummaryUnit`."""
    started: float
    """When its last job began, in seconds since 1970."""
    first_started: float | None = None
    """When its first job began; None if not recorded."""
    method: int = METHOD_VERSION
    """Of the method (`METHOD_VERSION`): results of another one are not used again."""
    later: bool = False
    """Whether a later version wrote it, in a format that may have more or other fields."""

    @classmethod
    def of(
        cls, run: str, checkpoints: "Iterable[Checkpoint]", summary: str, suite: Mapping[str, Any]
    ) -> "EvaluationRecord":
        """The record of an evaluation or attack job that starts now."""
        return cls(
            run=run,
            suite=suite,
            checkpoints=tuple(
                {
                    "label": checkpoint.label,
                    "kind": checkpoint.kind,
                    "digest": checkpoint.digest,
                    "erased": list(checkpoint.erased),
                    "edit": checkpoint.image_model.edit.ref.path
                    if checkpoint.image_model.edit
                    else None,
                }
                for checkpoint in checkpoints
            ),
            summary=summary,
            started=time.time(),
        )

    @property
    def name(self) -> str:
        """The suite's name."""
        return field(self.suite, "name", str, "not known")

    @property
    def labels(self) -> list[str]:
        """The checkpoints' labels."""
        return [field(checkpoint, "label", str, "not known") for checkpoint in self.checkpoints]

    @property
    def edits(self) -> frozenset[str]:
        """Paths in the store of the masks and deltas that are applied."""
        # The first versions did not record them.
        return frozenset(path for each in self.checkpoints if (path := each.get("edit")))

    def write(self, store: Store) -> None:
        """Write or replace the record."""
        content = {
            "format": RUN_FORMAT,
            "run": self.run,
            "suite": self.suite,
            "checkpoints": list(self.checkpoints),
            "summary": self.summary,
            "started": self.started,
            "first_started": first_started(store, self.run, RUN_FILE, self.started),
            "version": __version__,
            "method": self.method,
        }
        store.write_run_file(self.run, RUN_FILE, canonical_json(content).encode())

    @classmethod
    def read(cls, store: Store, run: str) -> "EvaluationRecord | None":
        """The record of a run; None if the run is not an evaluation.

        Raises:
            StoreError: it is damaged.
        """
        data = store.read_run_file(run, RUN_FILE)
        if data is None:
            return None
        with told_if_damaged(store, run, RUN_FILE):
            content = json_object(data)
            later = is_later(content, RUN_FORMAT)
            checkpoints = field(content, "checkpoints", list, [] if later else None)
            checkpoints = [each for each in checkpoints if isinstance(each, dict)]
            for each in checkpoints:
                # Read here, since `gc` must not miss what such a path names.
                if each.get("edit") is not None:
                    field(each, "edit", str)
            return cls(
                run=run,
                suite=field(content, "suite", dict, {} if later else None),
                checkpoints=tuple(checkpoints),
                summary=field(content, "summary", str, "" if later else None),
                started=time_field(content, "started", 0.0 if later else None),
                first_started=time_field(content, "first_started", 0.0) or None,
                # Not recorded in version 1.
                method=count_field(content, "method", 1),
                later=later,
            )


def evaluation_records(store: Store) -> list[EvaluationRecord]:
    """Records of a store's evaluations, the newest first.

    Raises:
        StoreError: one is damaged.
    """
    found = (EvaluationRecord.read(store, run) for run in store.runs())
    records = [record for record in found if record is not None]
    return sorted(records, key=lambda record: (record.started, record.run), reverse=True)


def summary_commits(
    store: Store, on_unknown: Callable[[UnknownFormatError], None] | None = None
) -> list[Commit]:
    """Commit records of a store's summaries of evaluations and attacks, in no particular order.

    Raises:
        UnknownFormatError: another version wrote one, and `on_unknown` is None.
    """
    found = []
    for kind in SUMMARY_KINDS:
        for key in store.committed(kind):
            try:
                found.append(store.find(kind, key))
            except UnknownFormatError as error:
                if on_unknown is None:
                    raise
                on_unknown(error)
    return [commit for commit in found if commit is not None]
