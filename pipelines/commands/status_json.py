"""`conceptprune status --json`: the runs of a store, for programs."""

from collections import Counter
from typing import Any

from conceptprune.errors import StoreError
from conceptprune.store import Store
from conceptprune.store.claims import claims_by_age

from ..records.combined import combined_row, how_combined, lacking
from ..records.evaluation import EvaluationRecord
from ..records.run_record import RunRecord
from ..records.runs import AnyRecord, UnknownRecord
from .status import OPEN, RunStatus, read_statuses

FORMAT = "conceptprune.status/1"
STATUSES = ("done", "reused", *OPEN)


def status_document(store: str) -> dict[str, Any]:
    """Each run of a store, the newest first; times are seconds since 1970.

    Raises:
        UserError: the store has no run.
        StoreError: the store cannot be read.
    """
    opened = Store(store)
    claims = claims_by_age(opened)
    runs = [_run(record, status) for record, status in read_statuses(opened, claims)]
    return {
        "format": FORMAT,
        "store": opened.uri,
        "runs": runs,
        "claims": [
            {
                "kind": claim.kind,
                "key": claim.key,
                "job": claim.job,
                "worker": claim.worker,
                "since": claim.since,
                "age": age,
                "live": age < claim.seconds,
            }
            for claim, age in claims
        ],
    }


def _run(record: AnyRecord, status: RunStatus | StoreError) -> dict[str, Any]:
    kind = "evaluation" if isinstance(record, EvaluationRecord) else "erase"
    known: dict[str, Any] = {
        "run": record.run,
        "kind": "unknown" if isinstance(record, UnknownRecord) else kind,
    }
    if isinstance(status, StoreError):
        return {**known, "error": str(status)}
    if not isinstance(record, UnknownRecord):
        known |= {"started": record.started, "first_started": record.first_started}
    if isinstance(record, RunRecord):
        known["model"] = {"label": record.model_label, "digest": record.model_identity}
        combined = combined_row(status.rows)
        known["concepts"] = {
            "all": status.num_concepts,
            "done": status.num_concepts_done,
            "wrong": dict(status.wrong),
            "effect": status.states.as_json() if status.states else None,
        }
        known["combined"] = combined and {
            "how": how_combined(combined),
            "status": combined["status"],
            "wrong": status.wrong_combined or None,
            "lacking": list(lacking(combined, status.rows)),
        }
    if isinstance(record, EvaluationRecord):
        known |= {"suite": record.name, "checkpoints": record.labels}
    counts = Counter(row["status"] for row in status.rows)
    return {
        **known,
        "jobs": [
            {
                "job": job.job,
                "worker": job.worker,
                "state": "lost" if job.lost else job.state,
                "started": job.started,
                "seen": job.seen,
                "units_left": job.left,
                "in_flight": job.in_flight,
                "actors": job.actors,
                "units_done": job.done,
                "units_per_second": job.units_per_second,
                "seconds_left": job.seconds_left,
            }
            for job in status.jobs
        ],
        "units": {name: counts[name] for name in STATUSES},
        "without_result": [
            {
                "kind": row["kind"],
                "key": row["key"],
                "status": row["status"],
                "concepts": list(row["concepts"]),
                "attempts": row["attempts"],
                "error": row["error"],
            }
            for row in status.open_rows
            if row["status"] != "pending"
        ],
        "rerun_units": status.rerun_units,
    }
