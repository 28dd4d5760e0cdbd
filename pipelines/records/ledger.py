"""The ledger: one row for every unit of a run, with what became of it and where its results are."""

import json
import logging
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from conceptprune.digest import canonical_json
from conceptprune.errors import StoreError
from conceptprune.store import Commit, Store, parquet_to_table, table_to_parquet
from conceptprune.units.find import find_commit
from conceptprune.units.unit import APPLIED
from conceptprune.units.unit_plan import UnitPlan

from ..scheduling.graph import Committed

if TYPE_CHECKING:
    from ..scheduling.loop import Result

SCHEMA = pa.schema(
    [
        pa.field("run", pa.string(), nullable=False),
        pa.field("unit", pa.int32(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("concepts", pa.list_(pa.string()), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("attempts", pa.int32(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("seconds", pa.float64()),
        pa.field("evaluations", pa.int64(), nullable=False),
        pa.field("worker", pa.string()),
        pa.field("finished", pa.timestamp("ms", tz="UTC")),
        pa.field("objects", pa.list_(pa.string()), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("mask", pa.string()),
        pa.field("entries", pa.int64()),
        pa.field("site_weights", pa.int64()),
        pa.field("at_once", pa.int32()),
    ],
    metadata={"conceptprune.format": "ledger/2", "conceptprune.sorted_by": "unit"},
)
"""`unit`: its place in the plan. `status`: done (by this job), reused (committed before, or by
another job meanwhile), failed,
blocked (needs a failed unit), pending (not reached yet), or unneeded (its results are committed and
this unit is not). `at_once`: prompts that went through the denoiser together; fewer than a batch
where memory ran out, which may have moved the last bits."""

RUN_FILE = "run.json"
LEDGER_FILE = "ledger.parquet"
READERS = 16
"""Commit records of reused units are read so many at a time: an object store answers slowly."""

logger = logging.getLogger(__name__)

Made = Mapping[str, Any]
"""What a ledger row takes from a unit's commit record."""

NOTHING_MADE: Made = {
    "seconds": None,
    "worker": None,
    "finished": None,
    "objects": [],
    "bytes": 0,
    "entries": None,
    "site_weights": None,
    "at_once": None,
}


def ledger_rows(
    plan: UnitPlan,
    *,
    todo: Collection[str],
    results: "Mapping[str, Result]",
    reused: Mapping[str, Made],
) -> list[dict[str, Any]]:
    """One row per unit of the plan, in plan order; `todo` are the keys this job has to do."""
    rows = []
    for index, unit in enumerate(plan.units()):
        result = results.get(unit.key)
        made = reused.get(unit.key, NOTHING_MADE)
        if result:
            status: str = result.status
            made = made_by(result.commit) if result.commit else NOTHING_MADE
        elif unit.key in todo:
            status = "pending"
        else:
            status = "reused" if unit.key in reused else "unneeded"
        rows.append(
            {
                "run": plan.run,
                "unit": index,
                "kind": unit.kind,
                "key": unit.key,
                "detail": unit.detail,
                "concepts": list(plan.labels.get(unit.key, ())),
                "status": status,
                "attempts": result.attempts if result else 0,
                "error": result.error if result else None,
                "evaluations": unit.evaluations,
                "mask": unit.mask_key,
                **made,
            }
        )
    return rows


def made_by(commit: Commit) -> Made:
    """The columns that follow from a commit record."""
    provenance = commit.provenance
    finished = provenance.get("finished")
    refs = commit.objects.values()
    return {
        "seconds": provenance.get("seconds"),
        "worker": provenance.get("worker"),
        "finished": None if finished is None else int(finished * 1000),
        "objects": [ref.path for ref in refs],
        "bytes": sum(ref.size for name, ref in commit.objects.items() if name != APPLIED),
        "entries": provenance.get("entries"),
        "site_weights": provenance.get("site_weights"),
        "at_once": commit.at_once,
    }


def reused_units(
    plan: UnitPlan, store: Store, todo: Collection[str], committed: Committed
) -> dict[str, Made]:
    """What is on record of the plan's committed units that are not to be done, by key.

    Taken from the ledgers of earlier runs; only records of units that no ledger has (a job was
    stopped before it wrote them down, or the ledger is damaged) are read one by one.
    """
    units = {
        unit.key: unit
        for unit in plan.units()
        if unit.key not in todo and committed(unit.kind, unit.key)
    }
    found: dict[str, Made] = {}
    # The run's own ledger first: it has all of it, unless a concept or a setting is new.
    for run in sorted(store.runs(), key=lambda run: run != plan.run):
        if len(found) == len(units):
            break
        try:
            rows = read_ledger(store, run)
        except StoreError as error:
            # Left in its place: its run's next job writes it anew, and until then it stops `gc`,
            # which would else take it that the run needs nothing.
            logger.warning("%s", error)
            continue
        for row in rows:
            if row["key"] in units and row["objects"]:
                found.setdefault(row["key"], {name: row[name] for name in NOTHING_MADE})
    with ThreadPoolExecutor(READERS) as readers:
        unknown = [unit for key, unit in units.items() if key not in found]
        commits = readers.map(lambda unit: find_commit(store, unit.kind, unit.key), unknown)
        found |= {commit.key: made_by(commit) for commit in commits if commit is not None}
    return found


def write_ledger(store: Store, run: str, rows: list[dict[str, Any]]) -> None:
    """Write or replace a run's ledger."""
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    store.write_run_file(run, LEDGER_FILE, table_to_parquet(table))


def read_ledger(store: Store, run: str) -> list[dict[str, Any]]:
    """A run's ledger rows; none where it has not been written yet.

    Raises:
        StoreError: it is damaged, or cannot be read.
    """
    data = store.read_run_file(run, LEDGER_FILE)
    if data is None:
        return []
    with told_if_damaged(store, run, LEDGER_FILE):
        rows = parquet_to_table(data).to_pylist()
    # ledger/1 did not have all of the columns.
    return [dict.fromkeys(SCHEMA.names) | row for row in rows]


@contextmanager
def told_if_damaged(store: Store, run: str, name: str) -> Iterator[None]:
    """Errors of parsing a run's file as a `StoreError` that names it."""
    try:
        yield
    except (StoreError, ValueError, LookupError, TypeError) as error:
        raise StoreError(
            f"{store.uri}: runs/run={run}/{name} is damaged ({error}); run its job again, which "
            f"writes it anew, or `conceptprune gc --forget {run}`"
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """What a run was asked to do; written before any work, so that `status` can tell."""

    run: str
    manifest: Mapping[str, Any]
    """As validated, without the model, whose folder is a matter of the machine."""
    model_label: str
    model_identity: str
    pipeline: str
    """The model's diffusers pipeline class."""
    denoiser_weights: int
    started: float
    language_model: str | None = None
    """Digest of the language model that wrote fillers, if one did."""

    def write(self, store: Store) -> None:
        """Write or replace the record."""
        content = {
            "format": "conceptprune.run/1",
            "run": self.run,
            "manifest": self.manifest,
            "model": {
                "label": self.model_label,
                "identity": self.model_identity,
                "pipeline": self.pipeline,
            },
            "language_model": self.language_model,
            "denoiser_weights": self.denoiser_weights,
            "started": self.started,
        }
        store.write_run_file(self.run, RUN_FILE, canonical_json(content).encode())

    @classmethod
    def read(cls, store: Store, run: str) -> "RunRecord":
        """The record of `run`.

        Raises:
            KeyError: the store has no such run.
            StoreError: it is damaged.
        """
        data = store.read_run_file(run, RUN_FILE)
        if data is None:
            raise KeyError(run)
        with told_if_damaged(store, run, RUN_FILE):
            content = json.loads(data)
            return cls(
                run=run,
                manifest=content["manifest"],
                model_label=content["model"]["label"],
                model_identity=content["model"]["identity"],
                # The first versions knew one family only and did not record it.
                pipeline=content["model"].get("pipeline", "StableDiffusionPipeline"),
                denoiser_weights=content["denoiser_weights"],
                started=content["started"],
                language_model=content.get("language_model"),
            )
