"""The summary of an evaluation or an attack: one row per number, with its interval."""

from typing import Any

import pyarrow as pa

from conceptprune.store import UnknownFormatError, whole_rows

OBJECT = "summary"
"""Name of the summary among the commit's objects."""

SORTED_BY = ("suite", "checkpoint", "group", "scorer", "metric")

SCHEMA = pa.schema(
    [
        pa.field("suite", pa.string(), nullable=False),
        pa.field("checkpoint", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("digest", pa.string(), nullable=False),
        pa.field("erased", pa.list_(pa.string()), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("scorer", pa.string(), nullable=False),
        pa.field("metric", pa.string(), nullable=False),
        pa.field("value", pa.float64()),
        pa.field("low", pa.float64()),
        pa.field("high", pa.float64()),
        pa.field("n", pa.int64(), nullable=False),
        pa.field("better", pa.string(), nullable=False),
        pa.field("settings", pa.string(), nullable=False),
    ],
    metadata={
        "conceptprune.format": "evaluation/1",
        "conceptprune.sorted_by": ",".join(SORTED_BY),
    },
)
"""`checkpoint`: its label; `source`: base, mask, delta or folder; `digest`: of what was applied,
empty for the base; `erased`: the concepts it claims to have erased; `group`: erased (those of the
suite's erased concepts that it claims, or all if it claims none), retained, general, or a name
after `erased/` or `retained/`; `scorer`: its name, `attack/<name>` for an attack; `value`, `low`,
`high`:
the number and its 95 % interval, null if there is none; `n`: images, or attacked prompts;
`better`: lower, higher, or empty; `settings`: JSON of everything that decides the number (versions,
weights, thresholds, seeds, budgets). Numbers of sets describe a whole group."""

BETTER = ("lower", "higher", "")


def summary_rows(table: pa.Table) -> list[dict[str, Any]]:
    """The rows of a summary, checked to be such as this version writes.

    Raises:
        UnknownFormatError: it is of another format.
        ValueError: it is of this format, and something in it is not.
    """
    found, known = (
        (schema.metadata or {}).get(b"conceptprune.format", b"").decode()
        for schema in (table.schema, SCHEMA)
    )
    if found != known:
        raise UnknownFormatError(f"the format {found}")
    rows = whole_rows(table, SCHEMA)
    for row in rows:
        if row["n"] < 0 or row["better"] not in BETTER:
            raise ValueError(
                f"a number in it is of {row['n']} images, {row['better']!r:.20} better"
            )
    return rows
