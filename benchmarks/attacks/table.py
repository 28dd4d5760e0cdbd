"""`python -m benchmarks.attacks.table STORE`: success rates of a store's attacks, as Markdown.

The rates are also written to results.jsonl, one per line.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.erasure.table import percent, table
from conceptprune.evaluation.summary import OBJECT
from conceptprune.store import Store, parquet_to_table
from pipelines.records.evaluation import summary_commits

Line = dict[str, Any]

LABELS = {
    "base": "base",
    "ours": "ours, k 1 %",
    "ours-sealed": "the same, sealed",
    "half": "ours, k 0.5 %",
    "half-sealed": "the same, sealed",
    "fia": "ours, Forget-It-All",
    "fia-sealed": "the same, sealed",
    "uce": "UCE, published settings",
    "uce2": "UCE, best of its sweep",
}
"""Titles of the checkpoints, in the table's order."""


def lines_of(store: Store) -> list[Line]:
    """The rates over all artists of every finished attack job, checkpoints in suite order."""
    found: dict[tuple[str, str, str], Line] = {}
    for commit in sorted(summary_commits(store), key=lambda commit: commit.key):
        summary = parquet_to_table(store.load(commit, OBJECT))
        for row in summary.to_pylist():
            if not row["scorer"].startswith("attack/") or row["group"] != "erased":
                continue
            settings = json.loads(row["settings"])
            where = (row["checkpoint"], row["scorer"].removeprefix("attack/"), settings["start"])
            found[where] = {
                "checkpoint": where[0],
                "attack": where[1],
                "start": where[2],
                "rate": row["value"],
                "interval": [round(row["low"], 4), round(row["high"], 4)],
                "n": row["n"],
                "spent": settings["spent"],
                "settings": settings["attack"],
            }
    return [found[where] for where in sorted(found)]


def rates_table(lines: list[Line], start: str) -> str:
    """One row per attack, one column per checkpoint."""
    mine = [line for line in lines if line["start"] == start]
    found = {line["checkpoint"] for line in mine}
    labels = [*(name for name in LABELS if name in found), *sorted(found - LABELS.keys())]
    attacks = sorted({line["attack"] for line in mine}, key=lambda name: (name != "none", name))
    by_place = {(line["attack"], line["checkpoint"]): line for line in mine}
    rows = []
    for attack in attacks:
        cells = [by_place.get((attack, label)) for label in labels]
        steps = max(line["spent"]["steps"] / line["n"] for line in cells if line)
        images = max(line["spent"]["pictures"] / line["n"] for line in cells if line)
        budget = f"{steps:.0f} steps, {images:.1f} images"
        rows.append([attack, budget, *(percent(line) if line else "-" for line in cells)])
    return table(
        ["attack", "spent per prompt, at most", *(LABELS.get(name, name) for name in labels)], rows
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attacks.table")
    parser.add_argument("store")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results.jsonl"))
    arguments = parser.parse_args()
    lines = lines_of(Store(arguments.store))
    text = "".join(json.dumps(line) + "\n" for line in lines)
    arguments.out.write_text(text, encoding="utf-8")
    for start in sorted({line["start"] for line in lines}):
        print(f"## Attacks that start from prompts {start}\n\n{rates_table(lines, start)}\n")


if __name__ == "__main__":
    main()
