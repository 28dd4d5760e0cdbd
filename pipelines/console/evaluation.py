"""A summary on a terminal: one line per number, with the checkpoints side by side."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .terminal import LOG_WIDTH

ARROWS = {"lower": "lower is better", "higher": "higher is better", "": ""}


def show_summary(
    rows: Sequence[Mapping[str, Any]], labels: Sequence[str], console: Console
) -> None:
    """Print the numbers of whole groups, and how many more the summary has.

    `rows` are the summary's (`summary_rows`); `labels` are the checkpoints' labels, in the
    requested order.
    """
    shown = [row for row in rows if "/" not in row["group"]]
    by_number: dict[tuple[str, ...], dict[str, Mapping[str, Any]]] = {}
    for row in shown:
        number = (row["group"], row["scorer"], row["metric"], row["better"])
        by_number.setdefault(number, {})[row["checkpoint"]] = row
    table = Table(box=None, pad_edge=False)
    for name in ("group", "scorer", "metric", ""):
        table.add_column(name, no_wrap=name != "")
    for label in labels:
        table.add_column(Text(label), justify="right")
    table.add_column("images", justify="right")
    for (group, scorer, metric, better), found in by_number.items():
        cells = [_number(found.get(label)) for label in labels]
        images = str(max(row["n"] for row in found.values()))
        table.add_row(Text(group), Text(scorer), Text(metric), ARROWS[better], *cells, images)
    # A log has no width, and numbers must not be cut at the usual 80 columns.
    wide = console if console.is_terminal else Console(file=console.file, width=LOG_WIDTH)
    wide.print(table)
    left = len(rows) - len(shown)
    if left:
        console.print(f"and {left} numbers of single concepts", markup=False, highlight=False)


def _number(row: Mapping[str, Any] | None) -> str:
    if row is None or row["value"] is None:
        return "-"
    if row["low"] is None or row["high"] is None:
        return f"{row['value']:.3g}"
    return f"{row['value']:.3g} ({row['low']:.3g} to {row['high']:.3g})"
