"""Finding recorded runs, and the masks of their concepts."""

import difflib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from conceptprune.errors import StoreError, UserError
from conceptprune.manifest import concept_key
from conceptprune.store import Commit, Store
from conceptprune.units.find import find_commit

from ..console.logs import one_line
from ..scheduling.graph import committed_in
from .combined import inside, parts_of
from .evaluation import RUN_FILE as EVALUATION_FILE
from .evaluation import EvaluationRecord
from .ledger import LEDGER_FILE, is_combined, is_own_mask, read_ledger
from .run_record import RUN_FILE, RunRecord

MAX_NAMES_SHOWN = 10

logger = logging.getLogger("conceptprune.job")


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownRecord:
    """A run of an unknown kind: it has a ledger, but no record that this version knows."""

    run: str
    started: float = 0.0


AnyRecord = RunRecord | EvaluationRecord | UnknownRecord


def unknown_records(store: Store) -> list[UnknownRecord]:
    """Runs that have a ledger but no record that this version knows."""
    found: dict[str, set[str]] = {}
    for entry in store.entries("runs"):
        _, run, *name = entry.path.split("/")
        found.setdefault(run.removeprefix("run="), set()).add("/".join(name))
    return [
        UnknownRecord(run=run)
        for run, names in sorted(found.items())
        if LEDGER_FILE in names and not names & {RUN_FILE, EVALUATION_FILE}
    ]


def run_records(store: Store) -> list[RunRecord]:
    """Records of a store's runs, the newest first; damaged ones are named in the log.

    Raises:
        UserError: there is none.
        StoreError: there are only damaged ones.
    """
    records, damaged = sound_records(store)
    if not records and damaged:
        raise damaged[0]
    if not records:
        raise UserError(
            f"{store.uri}: no run is recorded here; give the store that `conceptprune erase` "
            "was given (evaluations alone are shown by `conceptprune report --out FOLDER`)"
        )
    for error in damaged:
        logger.warning("going on with the other runs: %s", error)
    return records


def sound_records(store: Store) -> tuple[list[RunRecord], list[StoreError]]:
    """Records of a store's runs, the newest first, and what is wrong with those not among them."""
    records: list[RunRecord] = []
    damaged: list[StoreError] = []
    for run in store.runs():
        try:
            record = recorded(store, run)
        except StoreError as error:
            # It says nothing of the other runs.
            damaged.append(error)
            continue
        if record is not None:
            records.append(record)
    records.sort(key=lambda record: (record.started, record.run), reverse=True)
    return records, damaged


def recorded(store: Store, run: str) -> RunRecord | None:
    """The record of a run of `erase`; None for any other run, such as an evaluation."""
    try:
        return RunRecord.read(store, run)
    except KeyError:
        return None


def find_run(store: Store, run: str | None) -> RunRecord:
    """The record of the run with that id, or of the newest run if no id is given.

    The newest is that of the readable ones, and the log names the others.

    Raises:
        UserError: no such run.
        StoreError: its record is damaged, or all are.
    """
    # Whether others can be read does not matter to a run that is named.
    if run is not None and run in store.runs() and (record := recorded(store, run)):
        return record
    by_id = {record.run: record for record in run_records(store)}
    if run is None:
        return next(iter(by_id.values()))
    if run not in by_id:
        raise UserError(f"--run {run}: {store.uri} has no such run{_instead(run, list(by_id))}")
    return by_id[run]


def mask_keys(store: Store, record: RunRecord, concepts: Sequence[str]) -> dict[str, str]:
    """Keys of the finished masks of `concepts` by name, in the manifest's order.

    Raises:
        UserError: a concept is not the run's, or its mask is not finished.
    """
    names = {concept_key(concept.name): concept.name for concept in record.asked.concepts}
    wanted = dict.fromkeys(concept_key(concept) for concept in concepts)
    unknown = [concept for concept in concepts if concept_key(concept) not in names]
    if unknown:
        raise UserError(
            "\n".join(
                f'"{name}" is not a concept of run {record.run}'
                f"{_instead(name, list(names.values()))}"
                for name in unknown
            )
        )
    rows = {row["concepts"][0]: row for row in read_ledger(store, record.run) if is_own_mask(row)}
    keys = {}
    for name in (names[key] for key in names if key in wanted):
        row = rows.get(name)
        if row is None or store.find("mask", row["key"]) is None:
            reason = f" ({row['status']}: {row['error']})" if row and row["error"] else ""
            raise UserError(
                f'the mask of "{name}" is not finished in run {record.run}{one_line(reason)}; '
                "run `conceptprune erase` again"
            )
        keys[name] = row["key"]
    return keys


def finished_masks(store: Store, record: RunRecord) -> tuple[dict[str, str], dict[str, str]]:
    """Keys of all finished masks of a run by concept, and why each other concept has none.

    Raises:
        UserError: no mask is finished.
    """
    rows = {row["concepts"][0]: row for row in read_ledger(store, record.run) if is_own_mask(row)}
    committed = committed_in(store)
    keys: dict[str, str] = {}
    without: dict[str, str] = {}
    for concept in record.asked.concepts:
        row = rows.get(concept.name)
        if row is not None and committed("mask", row["key"]):
            keys[concept.name] = row["key"]
        else:
            without[concept.name] = (row and (row["error"] or row["status"])) or "not begun"
    if not keys:
        raise UserError(f"no mask of run {record.run} is finished; run `conceptprune erase` again")
    return keys, without


@dataclass(frozen=True, slots=True, kw_only=True)
class Combined:
    """A run's finished combined checkpoint, a fused mask or a rewording."""

    row: Mapping[str, Any]
    """Of the ledger."""
    commit: Commit
    parts: Mapping[str, Mapping[str, Any]]
    """By concept, in its own order, the row of the unit that made its part: a mask, or sums."""
    without: Mapping[str, str]
    """The run's other concepts, and why they are not in it."""


def finished_combined(store: Store, record: RunRecord) -> Combined:
    """A run's combined checkpoint: of all concepts, or if that is not there, of those that are.

    Raises:
        UserError: the run asked for none, or it is not finished.
    """
    rows = read_ledger(store, record.run)
    found = [row for row in rows if is_combined(row)]
    if not found:
        raise UserError(
            f"--combined: run {record.run} combines nothing, as its manifest has neither outputs: "
            "{fuse: ...} nor method: reword; name concepts, or give --all"
        )
    commits = ((row, find_commit(store, row["kind"], row["key"])) for row in found)
    row, commit = next((each for each in commits if each[1]), (found[-1], None))
    if commit is None:
        reason = row["error"] or row["status"]
        raise UserError(
            f"--combined: the combined checkpoint of run {record.run} is not finished "
            f"({one_line(reason)}); run `conceptprune erase` again"
        )
    own = parts_of(row, rows)
    names = inside(row, rows)
    return Combined(
        row=row,
        commit=commit,
        parts={name: own[name] for name in names},
        without={
            name: each["error"] or each["status"] for name, each in own.items() if name not in names
        },
    )


def _nearest(text: str, names: Sequence[str]) -> str:
    """The names most like `text`, as the end of a message."""
    by_key = {concept_key(name): name for name in names}
    close = difflib.get_close_matches(concept_key(text), by_key, n=3, cutoff=0.5)
    return f"; nearest: {one_line(', '.join(by_key[key] for key in close))}" if close else ""


def _instead(text: str, names: Sequence[str]) -> str:
    """The nearest names; if none is near, some of all names."""
    shown = ", ".join(names[:MAX_NAMES_SHOWN])
    if len(names) > MAX_NAMES_SHOWN:
        shown += f" and {len(names) - MAX_NAMES_SHOWN} more"
    return _nearest(text, names) or f"; there are: {one_line(shown)}"
