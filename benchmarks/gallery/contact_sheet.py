"""The figure in the README: artists before and after `make demo`, erased ones and kept ones.

    python -m benchmarks.gallery.contact_sheet runs/demo docs/hundred-artists.png

Nobody is chosen for how well it went: they are every so manieth of each list, in its order.
"""

import argparse
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from benchmarks.gallery.names import ERASED, KEPT
from conceptprune.store import Store, parquet_to_table
from pipelines.records.ledger import read_ledger
from pipelines.records.runs import find_run

COLUMNS = 12
SIDE = 0.62
"""Of an image, in inches."""

Shown = Mapping[str, tuple[bytes, bytes]]
"""An artist's image before and after, as PNG, by name."""


def shown(uri: str, run: str | None) -> dict[str, tuple[bytes, bytes]]:
    """One image of each artist that a store's run generated before and after; by default the last.

    Raises:
        UserError: there is no run.
    """
    store = Store(uri)
    rows = read_ledger(store, find_run(store, run).run)
    (combined,) = (row["key"] for row in rows if row["kind"] == "reword")
    images: dict[str | None, dict[str, bytes]] = {None: {}, combined: {}}
    for row in rows:
        if row["kind"] == "preview" and row["mask"] in images:
            commit = store.get("preview", row["key"])
            table = parquet_to_table(store.load(commit, "preview")).to_pylist()
            images[row["mask"]] |= {each["prompt"]: each["png"] for each in table}
    both = {text: (images[None][text], images[combined][text]) for text in images[combined]}
    names = [artist.name for artist in (*ERASED, *KEPT)]
    return {
        name: pair for text, pair in sorted(both.items()) for name in names if text.endswith(name)
    }


def spread(names: Sequence[str]) -> list[str]:
    """COLUMNS of them, evenly spaced."""
    return [names[index * len(names) // COLUMNS] for index in range(COLUMNS)]


def drawn(images: Shown) -> Figure:
    """Two bands of two rows: those erased and those kept, before and after."""
    height = 4 * SIDE + 1.0
    figure = plt.figure(figsize=(COLUMNS * SIDE + 0.7, height), dpi=160)
    bands = (
        (f"{len(ERASED)} artists are erased at once: {COLUMNS} of them", ERASED),
        (f"{len(KEPT)} are kept: {COLUMNS} of them", KEPT),
    )
    grid = figure.add_gridspec(
        5, COLUMNS, height_ratios=(1, 1, 0.5, 1, 1), wspace=0.04, hspace=0.04,
        left=0.09, right=0.995, top=1 - 0.3 / height, bottom=0.02,
    )  # fmt: skip
    for band, (title, artists) in enumerate(bands):
        for column, name in enumerate(spread([artist.name for artist in artists])):
            for after in (0, 1):
                axes: Axes = figure.add_subplot(grid[3 * band + after, column])
                axes.imshow(Image.open(io.BytesIO(images[name][after])))
                axes.set_xticks([])
                axes.set_yticks([])
                if column == 0:
                    label = "after" if after else "before"
                    axes.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
                    if not after:
                        axes.set_title(title, loc="left", fontsize=9)
    return figure


def main() -> None:
    """Draw it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gallery.contact_sheet")
    parser.add_argument("store", help="the store of `make demo`")
    parser.add_argument("--run", help="a run of demo.yaml, if it is not the store's last")
    parser.add_argument("out", type=Path, help="a PNG file")
    arguments = parser.parse_args()
    # Without the software's version, so that equal images are equal files.
    drawn(shown(arguments.store, arguments.run)).savefig(arguments.out, metadata={"Software": None})


if __name__ == "__main__":
    main()
