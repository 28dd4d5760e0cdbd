"""The summary of an evaluation or an attack: one row per number, with its interval."""

import pyarrow as pa

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
