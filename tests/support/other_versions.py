"""A store's files as an earlier or a later version would have left them."""

import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from conceptprune.store import Store, parquet_to_table, table_to_parquet
from conceptprune.units.units import PROMPTS_KINDS
from pipelines.records.ledger import LEDGER_FILE, SCHEMA

Rows = list[dict[str, Any]]

ONLY_SINCE_3 = ("needs", "intermediate", "applies", "prompts")
SCHEMA_2 = pa.schema(
    [field for field in SCHEMA if field.name not in ONLY_SINCE_3],
    metadata={**SCHEMA.metadata, b"conceptprune.format": b"ledger/2"},
)


def ledger_of(store: Store, run: str) -> pa.Table:
    data = store.read_run_file(run, LEDGER_FILE)
    assert data
    return parquet_to_table(data)


def write_ledger_2(store: Store, run: str) -> None:
    """A run's ledger as versions wrote it that left out its prompts and what units need."""
    rows = [row for row in ledger_of(store, run).to_pylist() if row["kind"] not in PROMPTS_KINDS]
    for number, row in enumerate(rows):
        row["unit"] = number
    table = pa.Table.from_pylist(rows, schema=SCHEMA_2)
    store.write_run_file(run, LEDGER_FILE, table_to_parquet(table))


def edit_ledger(
    store: Store,
    run: str,
    *,
    rows: Callable[[Rows], Rows] = lambda rows: rows,
    columns: dict[str, str] | None = None,
    without: tuple[str, ...] = (),
    number: int = 3,
) -> None:
    """Rewrite a ledger with other rows, further text columns, some dropped, another format."""
    table = ledger_of(store, run)
    table = pa.Table.from_pylist(rows(table.to_pylist()), schema=table.schema)
    for name, text in (columns or {}).items():
        table = table.append_column(name, pa.array([text] * len(table)))
    metadata = {**SCHEMA.metadata, b"conceptprune.format": f"ledger/{number}".encode()}
    table = table.drop_columns(list(without)).replace_schema_metadata(metadata)
    store.write_run_file(run, LEDGER_FILE, table_to_parquet(table))


def edit_json(store: Store, run: str, name: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Rewrite a JSON file of a run."""
    data = store.read_run_file(run, name)
    assert data
    content = json.loads(data)
    change(content)
    store.write_run_file(run, name, json.dumps(content).encode())
