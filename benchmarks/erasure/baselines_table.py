"""`python -m benchmarks.erasure.baselines_table`: writes BASELINES.md from the results."""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.erasure.__main__ import CHOOSING_SEEDS
from benchmarks.erasure.baselines import FRESH_SEEDS, NUMBERS, RESULTS, Line
from benchmarks.erasure.table import COLUMNS, percent, table

PAGE = Path(__file__).with_name("BASELINES.md")
OURS = ("conceptprune", "fia")
CONTROLS = ("random", "magnitude")
METHODS = (*OURS, "uce", "rece", *CONTROLS)
ERASED = 0.05
"""Erasures that leave more of the erased artists' images than this are not compared."""

INTRODUCTION = f"""# Our erasures and the baselines, on the studio model

Written by `python -m benchmarks.erasure.baselines_table` from `baselines_results.jsonl`, which
`python -m benchmarks.erasure.baselines choose` and then `report` make.

**No evidence about Stable Diffusion.** The studio model was built so that its feed-forwards carry
the text, and trained so that each artist has neurons of its own there: it favours methods that
prune them. Its 16 artists and 12 things are all it knows, which favours UCE and RECE: everything
that could suffer is named to them.

Judged by the shipped judge; DDIM, 20 steps, guidance 5. All artists of a row are erased at once, in
one checkpoint; UCE and RECE preserve all the others by name, a budget spares them. Rates have
Wilson 95 % intervals and the number of images, from seeds {FRESH_SEEDS[0]} to {FRESH_SEEDS[-1]},
with which no setting of any method was chosen. *Distance* is the root mean square pixel difference
(of 255) between the images of retained artists and photos, and the untouched model's images from
the same seeds, with a bootstrap 95 % interval. *Seconds* are measured on one core with the model
loaded, and include collection. *Bytes* are those of the smallest file that holds the erasure: a
mask, or UCE's and RECE's delta; a mask's own delta is in the last column.

Settings. Ours are the published ones for styles: ConceptPrune k 1 %, ten calls; Forget-It-All r1
5 %, r2 2 %; retain-shared alpha 0.8; a budget of 2 % of the site. *Published* are those of the
authors' current scripts (UCE: last subject token, guide "art", lamb 0.5; RECE, for styles: guide
"art", one epoch), and *published earlier* those of RECE's previous script: the empty prompt as
guide, ten epochs. *Best of the sweep* are those that did best in a sweep around the published ones,
at the end of this page: chosen with seed {CHOOSING_SEEDS[0]} and four artists, by the mean of six
rates, and among equals by the smallest distance. Ours were not chosen by distance. UCE's sweep
continues until its erasure fails; RECE's best has the largest lamb that was tried. The rows *RECE,
published* were timed on a core that other work shared. The second row of the sweep is UCE's script
at the time of the paper. The controls take as many weights of each layer as ConceptPrune's union.
"""

LEADERS = f"""## Who leads

The best of our rows against the best of UCE's and RECE's, among those that leave at most
{100 * ERASED:g} % of the erased artists' images. Each criterion is compared on its own, so the
best may come from different rows; differences within the intervals above mean nothing.
"""

Value = Callable[[Line], float]
CRITERIA: dict[str, tuple[Value, bool]] = {
    "erased artists seen": (lambda line: float(line["erased look"]["rate"]), False),
    "their things": (lambda line: float(line["erased thing"]["rate"]), True),
    "retained artists": (lambda line: float(line["others look"]["rate"]), True),
    "retained artists' things": (lambda line: float(line["others thing"]["rate"]), True),
    "photos": (lambda line: float(line["photos look"]["rate"]), True),
    "distance": (lambda line: float(line["rmse"]["mean"]), False),
    "seconds": (lambda line: float(line["seconds"]), False),
    "bytes": (lambda line: float(line["file_bytes"]), False),
}
"""What to compare, and whether more of it is better."""


def title(line: Line) -> str:
    """A method with its fusion, or with the origin of its setting."""
    setting = line["setting"]
    if "fusion" in setting:
        alone = "alone" if line["artists"] == 1 else setting["fusion"]["how"]
        return f"**{line['method']}**, {alone}"
    if "how" in setting:
        return f"{line['method'].upper()}, {setting['how']}"
    return {"random": "weights at random", "magnitude": "largest weights"}[line["method"]]


def text_edit(line: Line) -> str:
    """A setting of UCE or RECE in words."""
    setting = line["setting"]
    numbers = setting["settings"]
    if "epochs" in numbers:
        parts = [f"epochs {numbers['epochs']}", f"regularisation {numbers['regularisation']:g}"]
        numbers = numbers["again"]
    else:
        parts = []
    parts += [
        f"tokens {numbers['tokens']}",
        f"lamb {numbers['lamb']:g}",
        f"preserve {numbers['preserve_scale']:g}",
        f'guide "{setting["guide"]}"' if setting["texts"] != "prompts" else "guide photo prompts",
        f"erased by {setting['texts']}",
    ]
    return ", ".join(parts)


def report_table(lines: Sequence[Line], number: int) -> str:
    """One row for each method."""
    rows = [
        [
            title(line),
            *(percent(line[name]) for name in COLUMNS),
            f"{line['rmse']['mean']:.2f} ({line['rmse']['interval'][0]:.2f}"
            f"-{line['rmse']['interval'][1]:.2f})",
            f"{line['seconds']:.2f}",
            f"{line['file_bytes']:,}",
            f"{line['delta_bytes']:,}",
        ]
        for line in reported(lines, number)
    ]
    header = ["", *COLUMNS.values(), "distance", "seconds", "bytes", "bytes of the delta"]
    return table(header, rows)


def leaders_table(lines: Sequence[Line]) -> str:
    """Who is best by each criterion, among the erasures that leave at most `ERASED`."""
    rows = []
    for criterion, (value, more) in CRITERIA.items():
        cells = []
        for number in NUMBERS:
            erasing = [
                line
                for line in reported(lines, number)
                if line["erased look"]["rate"] <= ERASED and line["method"] not in CONTROLS
            ]
            ours = [value(line) for line in erasing if line["method"] in OURS]
            theirs = [value(line) for line in erasing if line["method"] not in OURS]
            pick = max if more else min
            cells.append(_verdict(pick(ours), pick(theirs), more=more) if ours and theirs else "-")
        rows.append([criterion, *cells])
    return table(["", *(f"{number} erased" for number in NUMBERS)], rows)


def _verdict(ours: float, theirs: float, *, more: bool) -> str:
    shown = f"{_short(ours)} to {_short(theirs)}"
    if ours == theirs:
        return f"equal ({_short(ours)})"
    return f"ours ({shown})" if (ours > theirs) == more else f"**theirs** ({shown})"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def sweep_table(lines: Sequence[Line]) -> str:
    """One row for each setting that was compared."""
    rows = [
        [
            line["method"].upper(),
            text_edit(line),
            *(f"{100 * line[name]['rate']:.0f}" for name in COLUMNS),
            f"{line['rmse']['mean']:.2f}",
        ]
        for line in lines
        if line["what"] == "choosing"
    ]
    header = ["", "setting", *(f"{name}, %" for name in COLUMNS.values()), "distance"]
    return table(header, rows)


def reported(lines: Sequence[Line], number: int) -> list[Line]:
    """The lines of the table for `number` artists, in its order."""
    found = [line for line in lines if line["what"] == "report" and line["artists"] == number]
    return sorted(found, key=lambda line: METHODS.index(line["method"]))


def page(lines: Sequence[Line]) -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for number in NUMBERS:
        artists = "One artist" if number == 1 else f"{number} artists at once"
        parts.append(f"## {artists}\n\n{report_table(lines, number)}\n")
    chosen_settings = "\n".join(
        f"- {title(line)}: {text_edit(line)}."
        for line in reported(lines, NUMBERS[-1])
        if "how" in line["setting"]
    )
    parts.append(f"{LEADERS}\n{leaders_table(lines)}\n")
    parts.append(f"## UCE's and RECE's settings\n\n{chosen_settings}\n")
    parts.append(f"### The sweep, four artists, choosing seed\n\n{sweep_table(lines)}\n")
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.erasure.baselines_table")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=PAGE)
    arguments = parser.parse_args()
    lines = [json.loads(line) for line in arguments.results.read_text("utf-8").splitlines()]
    arguments.out.write_text(page(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
