"""Prompt pairs as an Arrow table: one row per pair."""

from collections.abc import Mapping

import pyarrow as pa

from conceptprune.errors import StoreError
from conceptprune.models.prompt import Prompt
from conceptprune.prompts.pairs import PromptPair

SCHEMA = pa.schema(
    [
        pa.field("concept", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("pair", pa.int32(), nullable=False),
        pa.field("base", pa.string(), nullable=False),
        pa.field("target", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
    ],
    metadata={"conceptprune.format": "prompts/2", "conceptprune.sorted_by": "concept,pair"},
)

Pairs = Mapping[str, tuple[PromptPair, ...]]
"""Prompt pairs by concept name."""


def prompts_table(pairs: Pairs, kinds: Mapping[str, str]) -> pa.Table:
    """The pairs of several concepts, with each concept's kind."""
    rows = [
        {
            "concept": name,
            "kind": kinds[name],
            "pair": index,
            "base": pair.base.text,
            "target": pair.target.text,
            "seed": pair.target.seed,
        }
        for name, concept_pairs in sorted(pairs.items())
        for index, pair in enumerate(concept_pairs)
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def pairs_from_table(table: pa.Table) -> dict[str, tuple[PromptPair, ...]]:
    """The inverse of `prompts_table`.

    Raises:
        StoreError: a column is missing, or has another type or an empty place.
    """
    for name in ("concept", "base", "target", "seed"):
        at = table.schema.get_field_index(name)
        column = table.column(at) if at >= 0 else None
        is_kind = pa.types.is_integer if name == "seed" else pa.types.is_string
        if column is None or column.null_count or not is_kind(column.type):
            raise StoreError(f"a table of prompts has no whole column {name}")
    pairs: dict[str, list[PromptPair]] = {}
    for row in table.to_pylist():
        base = Prompt(text=row["base"], seed=row["seed"])
        target = Prompt(text=row["target"], seed=row["seed"])
        pairs.setdefault(row["concept"], []).append(PromptPair(base=base, target=target))
    return {name: tuple(concept_pairs) for name, concept_pairs in pairs.items()}
