"""`python -m benchmarks.erasure.table RESULTS`: prints the study's tables as Markdown."""

import argparse
import json
from pathlib import Path
from typing import Any

Line = dict[str, Any]

COLUMNS = {
    "erased look": "asked artist seen",
    "erased thing": "their things",
    "others look": "other artists",
    "others thing": "their things",
    "photos look": "photos",
    "photos thing": "their things",
}
TITLES = {
    "untouched": "the model as it is",
    "whole site zeroed": "every weight of the site zeroed",
    "chosen": "each of 16 artists alone, chosen setting",
    "published": "each of 16 artists alone, published setting",
    "random, same density": "as many weights at random",
    "four, union": "four artists in one checkpoint, by union",
}


def percent(rate: Line) -> str:
    """A rate with its 95 % interval and number of images."""
    low, high = rate["interval"]
    return f"{100 * rate['rate']:.1f} % ({100 * low:.1f}-{100 * high:.1f}, n {rate['n']})"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def final_table(lines: list[Line]) -> str:
    """One row for each part of the study, over all artists."""
    totals = {line["what"]: line for line in lines if line["artist"] == "all"}
    rows = [
        [title, *(percent(totals[what][name]) for name in COLUMNS)]
        for what, title in TITLES.items()
        if what in totals
    ]
    return table(["", *COLUMNS.values()], rows)


def artists_table(lines: list[Line]) -> str:
    """One row for each artist erased alone with the chosen setting."""
    mine = [line for line in lines if line["what"] == "chosen" and line["artist"] != "all"]
    rows = [
        [
            line["artist"],
            f"{100 * line['density']:.2f} %",
            *(percent(line[name]) for name in COLUMNS),
            f"{line['photo_change']:.2f}",
        ]
        for line in mine
    ]
    header = ["artist", "of the site", *COLUMNS.values(), "photos' mean change, of 255"]
    return table(header, rows)


def frontier_table(lines: list[Line]) -> str:
    """One row for each setting on the frontier."""
    rows = []
    for line in lines:
        if line["what"] != "frontier":
            continue
        setting = line["setting"]
        what = [f"{100 * setting['sparsity']:.1f} %", str(setting["tau"])]
        what += [setting["halves"], setting["base"], f"{100 * line['density']:.2f} %"]
        rows.append(what + [f"{100 * line[name]['rate']:.1f}" for name in COLUMNS])
    header = ["k", "tau", "branches", "base", "of the site"]
    return table(header + [f"{name}, %" for name in COLUMNS.values()], rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.erasure.table", description=__doc__)
    parser.add_argument("results", type=Path, nargs="+")
    arguments = parser.parse_args()
    lines = [
        json.loads(line)
        for path in arguments.results
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    for title, text in (
        ("All artists", final_table(lines)),
        ("Each artist alone, chosen setting", artists_table(lines)),
        ("The frontier, two artists, choosing seeds", frontier_table(lines)),
    ):
        print(f"## {title}\n\n{text}\n")


if __name__ == "__main__":
    main()
