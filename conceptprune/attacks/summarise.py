"""From attempts to the summary: success rates by attack and concept, with Wilson's intervals."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from conceptprune.attacks.units import AttackSummaryUnit
from conceptprune.digest import canonical_json
from conceptprune.evaluation.bootstrap import LEVEL, wilson
from conceptprune.evaluation.checkpoint import Checkpoint
from conceptprune.evaluation.scorers import Metric
from conceptprune.evaluation.summary import SCHEMA
from conceptprune.evaluation.tables import sorted_table

METRIC = "success rate"
SUCCESS: Final = Metric(erased="lower", is_share=True)
"""How to read it: a share of the attacked prompts."""
Row = Mapping[str, Any]


def summary_table(unit: AttackSummaryUnit, attempts: Sequence[Row]) -> pa.Table:
    """The summary of an attack job; `attempts` are rows of its table of attempts."""
    rows = [
        row
        for attacked in unit.checkpoints
        for name, settings in unit.settings
        for row in _rows(
            unit,
            attacked.checkpoint,
            name,
            settings.model_dump(mode="json"),
            [
                attempt
                for attempt in attempts
                if (attempt["checkpoint"], attempt["attack"]) == (attacked.checkpoint.label, name)
            ],
        )
    ]
    return sorted_table(rows, SCHEMA)


def _rows(
    unit: AttackSummaryUnit,
    checkpoint: Checkpoint,
    name: str,
    settings: Mapping[str, Any],
    attempts: Sequence[Row],
) -> Iterator[dict[str, Any]]:
    """The rate of one attack on one checkpoint, over all its concepts and for each."""
    groups = {"erased": list(attempts)}
    for attempt in attempts:
        groups.setdefault(f"erased/{attempt['concept']}", []).append(attempt)
    for group, mine in groups.items():
        hits = sum(attempt["success"] for attempt in mine)
        low, high = wilson(hits, len(mine))
        spent = {
            "prompts": len(mine),
            "pictures": sum(attempt["pictures"] for attempt in mine),
            "steps": sum(attempt["steps"] for attempt in mine),
        }
        yield {
            "suite": unit.suite,
            "checkpoint": checkpoint.label,
            "source": checkpoint.kind,
            "digest": checkpoint.digest,
            "erased": list(checkpoint.erased),
            "group": group,
            "scorer": f"attack/{name}",
            "metric": METRIC,
            "value": hits / len(mine),
            "low": low,
            "high": high,
            "n": len(mine),
            "better": SUCCESS.erased,
            "settings": canonical_json(
                {
                    "attack": settings,
                    "start": unit.start,
                    "judged": unit.judgement.shown,
                    "spent": spent,
                    "interval": {"method": "wilson", "level": LEVEL},
                }
            ),
        }
