"""The sweep job: compare settings on one collection."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from conceptprune.masks.sweep import KEY, SCHEMA
from conceptprune.store import Store, load_table, whole_rows
from conceptprune.units.run_id import run_id

from ..console import exits
from ..console.logs import identified, job_console, log_format, say
from ..records.run_files import told_if_strange
from .erase import JobResult, run_job
from .preparation import prepare
from .run import tell_outcome

SETTINGS = KEY[1:]

Rows = list[dict[str, Any]]
"""Of the sweep's table, in the columns of its schema."""


def sweep(
    manifest: Path,
    store: str,
    console: Console,
    asked_format: str | None = None,
    tell: Callable[[dict[str, Any]], None] | None = None,
) -> int:
    """Run the sweep of a manifest and print its table; as log lines, if the log is JSON.

    `tell` also gets the table as a document.

    Returns:
        0 if every concept is done, 1 if some failed; bad input raises UserError.
    """
    form = log_format(asked_format)
    console = job_console(form, console)
    prepared = prepare(manifest, sweep=True)
    with identified(run=run_id(prepared.manifest, prepared.model)):
        result = run_job(prepared, store, console, form, command="sweep")
        _print_result(result, store, console)
        if tell is not None:
            tell(_document(result, store))
        return exits.of_job(result.outcome.failed)


def _table_of(result: JobResult, store: str) -> tuple[Rows, str] | None:
    """The table of all settings, and its path in the store; None if it was not made.

    Raises:
        StoreError: it is damaged, or not such as this version writes.
    """
    table = result.plan.sweep_table
    opened = Store(store)
    commit = opened.find(table.kind, table.key) if table else None
    if commit is None:
        return None
    with told_if_strange(opened, commit):
        rows = whole_rows(load_table(opened, commit, "sweep"), SCHEMA)
        for row in rows:
            if row["error"] is None and None in (row["density"], row["overlap"]):
                raise ValueError("a setting has neither a number nor an error")
    return rows, commit.objects["sweep"].path


def _document(result: JobResult, store: str) -> dict[str, Any]:
    """The sweep with one row per concept and setting, for programs."""
    found = _table_of(result, store)
    return {
        "format": "conceptprune.sweep/1",
        "run": result.plan.run,
        **result.outcome.as_json(),
        "rows": found[0] if found else [],
    }


def _print_result(result: JobResult, store: str, console: Console) -> None:
    found = _table_of(result, store)
    if found:
        rows, path = found
        _print_table(rows, console)
        say(console, f"every concept and layer: {path}")
    tell_outcome(console, f"run {result.plan.run}", result.outcome, result.seconds, store)


def _print_table(rows: Rows, console: Console) -> None:
    """One line per setting, over its concepts."""
    by_setting: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        by_setting.setdefault(tuple(row[name] for name in SETTINGS), []).append(row)
    shown = [
        index
        for index, name in enumerate(SETTINGS)
        if name in ("selector", "tau") or len({setting[index] for setting in by_setting}) > 1
    ]
    table = Table(box=None, pad_edge=False)
    names = [SETTINGS[index] for index in shown]
    for name in (*names, "concepts", "% of site", "from", "to", "overlap"):
        table.add_column(name, justify="left" if name == "selector" else "right", no_wrap=True)
    for setting, mine in by_setting.items():
        values = [Text("-" if setting[index] is None else f"{setting[index]}") for index in shown]
        counted = [row for row in mine if row["error"] is None]
        if not counted:
            table.add_row(*values, "0", "refused", "", "", "")
            continue
        densities = [100 * row["density"] for row in counted]
        overlap = sum(row["overlap"] for row in counted) / len(counted)
        table.add_row(
            *values,
            f"{len(counted)}",
            f"{sum(densities) / len(counted):.3f}",
            f"{min(densities):.3f}",
            f"{max(densities):.3f}",
            f"{overlap:.3f}",
        )
    console.print(table)
    for error in dict.fromkeys(row["error"] for row in rows if row["error"]):
        say(console, f"refused: {error}")
