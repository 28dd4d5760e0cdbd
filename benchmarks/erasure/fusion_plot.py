"""`python -m benchmarks.erasure.fusion_plot RESULTS ...`: the fusions' table, and their picture."""

import argparse
import json
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from benchmarks.erasure.table import percent, table

Line = dict[str, Any]

SCALE = 2
WIDTH, HEIGHT = 760 * SCALE, 420 * SCALE
LEFT, RIGHT, TOP, BOTTOM = 70 * SCALE, 200 * SCALE, 40 * SCALE, 60 * SCALE
RADIUS = 5 * SCALE
COLOURS = {"union": "#c0392b", "retain-shared": "#b7791f", "budget": "#1f6fb2"}
INK, GRID = "#222222", "#dddddd"
CROWDED = 0.05
"""Dots nearer than this to the corner where all is well get no label."""


def title(line: Line) -> str:
    """What a line is of: the fusion with its setting."""
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
    """Erased artists still seen (across) against others kept (up); the size of a dot is nothing."""
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    pen = ImageDraw.Draw(image)
    font = ImageFont.load_default(13 * SCALE)

    def place(across: float, up: float) -> tuple[float, float]:
        return (
            LEFT + across * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM),
        )

    for step in range(0, 101, 20):
        share = step / 100
        pen.line([place(share, 0), place(share, 1)], GRID, SCALE)
        pen.line([place(0, share), place(1, share)], GRID, SCALE)
        x, y = place(share, 0)
        pen.text((x, y + 8 * SCALE), f"{step} %", INK, font, anchor="mt")
        x, y = place(0, share)
        pen.text((x - 8 * SCALE, y), f"{step} %", INK, font, anchor="rm")
    x, y = place(0.5, 0)
    pen.text((x, y + 32 * SCALE), "erased artists still seen", INK, font, anchor="mt")
    pen.text((LEFT, 12 * SCALE), "other artists kept", INK, font, anchor="lt")
    labelled = 0
    for line in lines:
        across, up = line["erased look"], line["others look"]
        colour = COLOURS[line["fusion"]["how"]]
        x, y = place(across["rate"], up["rate"])
        low, high = (place(end, up["rate"]) for end in across["interval"])
        pen.line([low, high], colour, SCALE)
        low, high = (place(across["rate"], end) for end in up["interval"])
        pen.line([low, high], colour, SCALE)
        pen.ellipse([x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS], colour)
        if across["rate"] > CROWDED or up["rate"] < 1 - CROWDED:
            label = f"{line['artists']} artists, k {100 * line['setting']['sparsity']:g} %"
            label += f", {title(line)}: {100 * line['density']:.1f} % of the site"
            right = across["rate"] > 0.5
            shift = -6 if right else 9
            # Dots along the top get their labels one below the other.
            below = (24 + 20 * labelled) * SCALE if right else 0
            anchor = "rm" if right else "ls"
            place_y = y - 9 * SCALE * (not right) + below
            pen.text((x + shift * SCALE, place_y), label, INK, font, anchor)
            labelled += right
    y = TOP
    for how, colour in COLOURS.items():
        x = WIDTH - RIGHT + 30 * SCALE
        pen.ellipse([x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS], colour)
        pen.text((x + 14 * SCALE, y), how, INK, font, anchor="lm")
        y += 24 * SCALE
    image.resize((WIDTH // SCALE, HEIGHT // SCALE), Image.Resampling.LANCZOS).save(path)


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
