"""What jobs, exports and `gc` put into the store's chain of events, for whoever audits it."""

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from conceptprune.digest import digest_json
from conceptprune.errors import StoreError
from conceptprune.store import Entry, Store
from conceptprune.store.events import record_event

from .combined import combined_row, how_combined, inside, role_of
from .ledger import is_own_mask

logger = logging.getLogger("conceptprune.job")


def job_began(store: Store, *, run: str, job: str, command: str, asked: Any) -> None:
    """Record that a job began, with the digest of what it was asked to do, as in the run's record.

    If that fails, there is a warning.
    """
    details = {"run": run, "job": job, "command": command, "asked_sha256": digest_json(asked)}
    _of_job(store, "job-began", details)


def job_ended(
    store: Store, *, run: str, job: str, state: str, rows: Sequence[Mapping[str, Any]]
) -> None:
    """Record how a job ended, its masks by concept, and what it combined them into.

    A killed job leaves no such event.

    If that fails, there is a warning.
    """
    made = {
        row["concepts"][0]: digest_in(path)
        for row in rows
        if is_own_mask(row) and row["status"] == "done"
        for path in row["objects"]
        if path.startswith("objects/mask/")
    }
    units = dict(Counter(row["status"] for row in rows))
    details = {"run": run, "job": job, "state": state, "units": units, "masks": made}
    combined = combined_row(rows)
    if combined and combined["status"] == "done":
        role = f"objects/{role_of(combined)}/"
        (path,) = (path for path in combined["objects"] if path.startswith(role))
        details["combined"] = {
            "how": how_combined(combined),
            "concepts": list(inside(combined, rows)),
            "sha256": digest_in(path),
        }
    _of_job(store, "job-ended", details)


def _of_job(store: Store, what: str, details: Mapping[str, Any]) -> None:
    try:
        record_event(store, what, details)
    except StoreError as error:
        # A job that cannot write the store at all fails at its ledger. Short of that, a damaged
        # chain is for `verify --store` to tell, and must not keep jobs from their work.
        logger.warning("the event %s is not on record in the store: %s", what, error)


def exported(
    store: Store,
    *,
    run: str,
    form: str,
    masks: Mapping[str, str],
    statements: Collection[str],
    rewording: Mapping[str, Any] | None = None,
) -> None:
    """Record an export: `masks` are the SHA-256 of its masks, by concept name.

    `statements` are the SHA-256 of the checkpoints' statements of provenance. A `rewording`, in
    place of masks, is named by its delta's SHA-256 and its concepts.

    Raises:
        StoreError: the store cannot be read or written.
    """
    details: dict[str, Any] = {
        "run": run,
        "form": form,
        "masks": dict(masks),
        "statements": sorted(statements),
    }
    if rewording is not None:
        details["rewording"] = dict(rewording)
    record_event(store, "exported", details)


def removing(store: Store, entries: Collection[Entry], forgotten: Collection[str]) -> None:
    """Record a coming removal: how many files, which masks among them, which runs are forgotten.

    Raises:
        StoreError: the store cannot be read or written.
    """
    paths = sorted(entry.path for entry in entries)
    details = {
        "files": len(paths),
        "bytes": sum(entry.size for entry in entries),
        "paths_sha256": digest_json(paths),
        "masks": [digest_in(path) for path in paths if path.startswith("objects/mask/")],
        "forgotten": sorted(forgotten),
    }
    record_event(store, "removing", details)


def digest_in(path: str) -> str:
    """The digest in an object's path."""
    return path.rpartition("/")[2].partition(".")[0]
