"""The ledger: one row per unit of a run, with its status and where its results are."""

import logging
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from conceptprune.errors import StoreError
from conceptprune.redaction import redacted
from conceptprune.store import (
    Commit,
    Store,
    UnknownFormatError,
    format_number,
    parquet_to_table,
    table_to_parquet,
    type_name,
)
from conceptprune.units.find import find_commit
from conceptprune.units.unit import APPLIED, Need
from conceptprune.units.unit_plan import UnitPlan

from ..scheduling.graph import Committed
from .fields import COUNTS_BELOW, LAST_TIME, count_field, field, time_field
from .run_files import told_if_damaged

if TYPE_CHECKING:
    from ..scheduling.loop import Result

SCHEMA = pa.schema(
    [
        pa.field("run", pa.string(), nullable=False),
        pa.field("unit", pa.int32(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("needs", pa.list_(pa.string()), nullable=False),
        pa.field("intermediate", pa.bool_(), nullable=False),
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
        pa.field("applies", pa.list_(pa.string()), nullable=False),
        pa.field("mask", pa.string()),
        pa.field("prompts", pa.string()),
        pa.field("entries", pa.int64()),
        pa.field("site_weights", pa.int64()),
        pa.field("at_once", pa.int32()),
    ],
    metadata={"conceptprune.format": "ledger/3", "conceptprune.sorted_by": "unit"},
)
"""Everything that a run refers to, so that no reader has to plan it again.

- `unit`: its place in the plan.
- `needs`: units that come before it, as "kind/key".
- `intermediate`: whether it is done only for the units that need it.
- `status`: done (by this job), reused (committed before, or by another job meanwhile), failed,
  blocked (needs a failed unit), pending (not reached yet), or unneeded (not committed, but every
  result that needs it is).
- `applies`: paths of objects that it applies but that no unit of the run makes.
- `mask`: key of the mask that it makes or applies.
- `prompts`: for statistics, the digest of their prompts (`prompts_digest`), which masks also name.
- `at_once`: prompts that went through the denoiser together; fewer than a batch if memory ran out,
  which may change the last bits.

A later version may add columns. It raises the format's number if they would mislead a reader of
this one; `gc` then keeps everything that may be the run's.
"""

NUMBER = format_number(SCHEMA)
MOST_UNITS = 1 << 21
"""Limit for a ledger's rows, each of which a reader holds as a whole."""
COMPLETE = 3
"""The first format that names everything a run refers to."""
INTERMEDIATE_UNTIL_2 = ("window", "statistics", "images", "scores", "set-scores", "attack")
"""Kinds of intermediate units, for ledgers that do not record which units those are."""

EMPTY: Mapping[str, Callable[[], Any]] = {
    "string": str,
    "int32": int,
    "int64": int,
    "bool": bool,
    "list<string>": list,
}
"""Stand-ins for values that another version's ledger does not have, by column type."""

LEDGER_FILE = "ledger.parquet"

READERS = 16
"""Commit records read at a time, because an object store answers slowly."""

logger = logging.getLogger(__name__)

Made = Mapping[str, Any]
"""What a ledger row takes from a unit's commit record."""

UNKNOWN = -1
"""For a number that is never negative."""

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
    """One row per unit of the plan, in plan order; `todo` are keys of units this job has to do."""
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
                "needs": [f"{kind}/{key}" for kind, key in unit.needs],
                "intermediate": unit.intermediate,
                "detail": unit.detail,
                "concepts": list(plan.labels.get(unit.key, ())),
                "status": status,
                "attempts": result.attempts if result else 0,
                "error": redacted(result.error) if result and result.error else None,
                "evaluations": unit.evaluations,
                "applies": list(unit.applies),
                "mask": unit.mask_key,
                "prompts": getattr(unit, "prompts_digest", None),
                **made,
            }
        )
    return rows


def made_by(commit: Commit) -> Made:
    """The columns that follow from a commit record."""
    # What cannot be is left out: a record says this for readers only, and a hostile one says
    # anything.
    provenance = commit.provenance
    finished = time_field(provenance, "finished", 0.0)
    return {
        "seconds": _known(time_field(provenance, "seconds", UNKNOWN)),
        "worker": field(provenance, "worker", str, "") or None,
        "finished": int(finished * 1000) or None,
        "objects": [ref.path for ref in commit.objects.values()],
        "bytes": sum(ref.size for name, ref in commit.objects.items() if name != APPLIED),
        "entries": _known(count_field(provenance, "entries", UNKNOWN)),
        "site_weights": _known(count_field(provenance, "site_weights", UNKNOWN)),
        "at_once": _at_once(provenance),
    }


def _known(number: float) -> float | None:
    return None if number == UNKNOWN else number


def _at_once(provenance: Mapping[str, Any]) -> int | None:
    number = count_field(provenance, "at_once", UNKNOWN)
    return number if 0 <= number < 2**31 else None


def reused_units(
    plan: UnitPlan, store: Store, todo: Collection[str], committed: Committed
) -> dict[str, Made]:
    """What is recorded of the plan's committed units that are not to be done, by key.

    This comes from the ledgers of earlier runs. Only for units in no ledger (a job was stopped
    before it wrote them down, or the ledger is damaged) are commit records read one by one.
    """
    units = {
        unit.key: unit
        for unit in plan.units()
        if unit.key not in todo and committed(unit.kind, unit.key)
    }
    found: dict[str, Made] = {}
    # The run's own ledger first: it has every unit, unless a concept or a setting is new.
    for run in sorted(store.runs(), key=lambda run: run != plan.run):
        if len(found) == len(units):
            break
        try:
            ledger = open_ledger(store, run)
        except StoreError as error:
            # Left in place: the run's next job rewrites it. Until then it stops `gc`, which would
            # otherwise conclude that the run needs nothing.
            logger.warning("%s", error)
            continue
        if ledger.is_later:
            continue
        for row in ledger.rows:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """A run's ledger, as far as this version can read it."""

    number: int
    """Of its format; 0 if no ledger has been written yet."""
    rows: list[dict[str, Any]]
    """In the columns of this version; those that an older one did not write are empty."""
    unknown: tuple[str, ...] = ()
    """Columns that this version does not know."""

    @property
    def is_later(self) -> bool:
        """Whether a later version wrote it, so that the rows may be incomplete."""
        return self.number > NUMBER

    @property
    def is_earlier(self) -> bool:
        """Whether its format does not name everything a run refers to (`earlier.py`)."""
        return 0 < self.number < COMPLETE


def open_ledger(store: Store, run: str) -> Ledger:
    """A run's ledger, written by any version.

    Raises:
        UnknownFormatError: a later version wrote it, and not even its units can be read.
        StoreError: it is damaged, or cannot be read.
    """
    data = store.read_run_file(run, LEDGER_FILE)
    if data is None:
        return Ledger(number=0, rows=[])
    with told_if_damaged(store, run, LEDGER_FILE):
        table = parquet_to_table(data, newest=NUMBER, most_rows=MOST_UNITS)
        number = format_number(table.schema)
    known = [name for name in SCHEMA.names if _is_known(table.schema, name)]
    unknown = tuple(name for name in table.column_names if name not in known)
    if not {"kind", "key"} <= set(known):
        raise UnknownFormatError(
            f"{store.uri}: runs/run={run}/{LEDGER_FILE} is of the format ledger/{number}, and this "
            f"version of conceptprune cannot read its units: it knows ledger/{NUMBER}"
        )
    with told_if_damaged(store, run, LEDGER_FILE):
        rows = [empty_row() | _filled(row) for row in table.select(known).to_pylist()]
        for row in rows:
            _check_values(row)
    for row in rows:
        # An earlier version may have recorded what a service said without redaction.
        row["error"] = redacted(row["error"]) if row["error"] else row["error"]
        if number < COMPLETE:
            row["intermediate"] = row["kind"] in INTERMEDIATE_UNTIL_2
    return Ledger(number=number, rows=rows, unknown=unknown)


def read_ledger(store: Store, run: str) -> list[dict[str, Any]]:
    """A run's ledger rows; empty if it has not been written yet.

    Raises:
        StoreError: it is damaged, or cannot be read.
    """
    return open_ledger(store, run).rows


def need_of(text: str) -> Need:
    """An entry of the column `needs`, as a pair."""
    kind, _, key = text.partition("/")
    return kind, key


def is_combined(row: Mapping[str, Any]) -> bool:
    """Whether a row is of what erases all concepts at once: a mask fused from several, not a
    concept's own, or a rewording."""
    if row["kind"] == "mask":
        return not row["concepts"]
    return row["kind"] in ("fused-mask", "reword")


def is_own_mask(row: Mapping[str, Any]) -> bool:
    """Whether a row is of a concept's own mask."""
    return row["kind"] == "mask" and len(row["concepts"]) == 1


def _is_known(schema: pa.Schema, name: str) -> bool:
    here = schema.get_field_index(name)
    return here >= 0 and type_name(schema.field(here).type) == type_name(SCHEMA.field(name).type)


def empty_row() -> dict[str, Any]:
    """A row of empty values."""
    return {
        field.name: None if field.nullable else EMPTY[type_name(field.type)]() for field in SCHEMA
    }


def _check_values(row: Mapping[str, Any]) -> None:
    """Check what the columns' types leave open.

    Raises:
        ValueError: a list has an empty entry, or a number is negative or not finite.
    """
    for name, value in row.items():
        # A NaN fails the comparison too.
        if isinstance(value, int | float) and not 0 <= value < COUNTS_BELOW:
            raise ValueError(f"unit {row['unit']} has {name} {value}")
        if isinstance(value, list) and None in value:
            raise ValueError(f"unit {row['unit']} has an empty entry in {name}")
    if row["seconds"] is not None and row["seconds"] > LAST_TIME:
        raise ValueError(f"unit {row['unit']} has seconds {row['seconds']}")


def _filled(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value is not None}
