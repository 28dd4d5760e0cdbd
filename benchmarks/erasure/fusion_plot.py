"""`python -m benchmarks.erasure.fusion_plot RESULTS ...`: prints the fusions' table, plots them."""

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.ticker import PercentFormatter

from benchmarks.erasure.table import percent, table

Line = dict[str, Any]

COLOURS = {"union": "#c0392b", "retain-shared": "#b7791f", "budget": "#1f6fb2"}
CROWDED = 0.05
"""Dots closer than this to the ideal corner get no label."""


def title(line: Line) -> str:
    """The fusion of a line, with its setting."""
    fusion = line["fusion"]
    values = [f"{fusion[name]:g}" for name in ("alpha", "fraction") if name in fusion]
    return " ".join([fusion["how"], *values])


def fusion_table(lines: list[Line]) -> str:
    """One row for each mask, most artists last."""
    ordered = sorted(lines, key=lambda line: (line["setting"]["sparsity"], line["artists"]))
    header = ["k", "artists", "fusion", "of the site", "erased artists seen", "their things"]
    header += ["other artists", "their things", "photos", "photos' mean change, of 255"]
    rates = ("erased look", "erased thing", "others look", "others thing", "photos look")
    rows = [
        [
            f"{100 * line['setting']['sparsity']:g} %",
            str(line["artists"]),
            title(line),
            f"{100 * line['density']:.2f} %",
            *(percent(line[name]) for name in rates),
            f"{line['photo_change']:.1f}",
        ]
        for line in ordered
    ]
    return table(header, rows)


def draw_plot(lines: list[Line], path: Path) -> None:
    """Erased artists still seen (across) against others kept (up), with their intervals."""
    figure, axes = plt.subplots(figsize=(7.6, 4.2), layout="constrained")
    for line in lines:
        across, up = line["erased look"], line["others look"]
        how = line["fusion"]["how"]
        axes.errorbar(
            across["rate"],
            up["rate"],
            xerr=_reach(across),
            yerr=_reach(up),
            fmt="o",
            color=COLOURS[how],
            label=how,
        )
    # Labels of dots along the top are stacked.
    labelled = 0
    for line in lines:
        across, up = line["erased look"]["rate"], line["others look"]["rate"]
        if across <= CROWDED and up >= 1 - CROWDED:
            continue
        right = across > 0.5
        axes.annotate(
            f"{line['artists']} artists, k {100 * line['setting']['sparsity']:g} %, {title(line)}: "
            f"{100 * line['density']:.1f} % of the site",
            (across, up),
            xytext=(-8, -16 - 14 * labelled) if right else (8, 6),
            textcoords="offset points",
            ha="right" if right else "left",
            fontsize="small",
        )
        labelled += right
    for axis, name in (
        (axes.xaxis, "erased artists still seen"),
        (axes.yaxis, "other artists kept"),
    ):
        axis.set_label_text(name)
        axis.set_major_formatter(PercentFormatter(1))
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.grid(alpha=0.3)
    named = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(named.values(), named.keys(), loc="outside right upper")
    # Without matplotlib's version, so that the same results give the same file.
    figure.savefig(path, dpi=150, metadata={"Software": None})
    plt.close(figure)


def _reach(rate: dict[str, Any]) -> list[list[float]]:
    """How far an interval reaches below and above its rate."""
    low, high = rate["interval"]
    return [[max(0.0, rate["rate"] - low)], [max(0.0, high - rate["rate"])]]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.erasure.fusion_plot")
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("fusion.png"))
    arguments = parser.parse_args()
    lines = [
        json.loads(line)
        for path in arguments.results
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    print(fusion_table(lines))
    draw_plot(lines, arguments.out)


if __name__ == "__main__":
    main()
