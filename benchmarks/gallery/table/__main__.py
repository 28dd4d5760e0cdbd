"""Measure rows of the table, where it stopped: `python -m benchmarks.gallery.table --rounds 6`.

A round of a row is about 160 images; its counts are appended to results.jsonl. Rows that have their
rounds already are skipped.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gallery import sampling
from benchmarks.gallery.judge import WEIGHTS, Judge
from benchmarks.gallery.table.measure import counts, distance, images_of, untouched_images
from benchmarks.gallery.table.questions import SIZES, erased_looks, round_of
from benchmarks.gallery.table.rows import METHODS, Gallery, Row

RESULTS = Path(__file__).with_name("results.jsonl")


def done() -> set[tuple[str, str, int, int]]:
    """Kind, method, size and number of the rounds on record."""
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    return {
        (line["kind"], line["method"], line["size"], line["round"])
        for line in map(json.loads, lines)
    }


def measure(gallery: Gallery, judge: Judge, row: Row, number: int) -> dict[str, Any]:
    """One round of one row."""
    round_ = round_of(row.size, number)
    stays = [*round_.kept, *round_.photos]
    gallery.put({})
    before = untouched_images(gallery.pipeline, stays, gallery.work / "untouched")
    begun = time.process_time()
    weights = row.weights(gallery, erased_looks(row.size, number))
    seconds = time.process_time() - begun
    gallery.put(weights)
    gone = images_of(gallery.pipeline, round_.erased)
    after = images_of(gallery.pipeline, stays)
    gallery.put({})
    return {
        "counts": counts(judge, round_, np.concatenate([gone, after])),
        "distance": round(distance(after, before), 2),
        "share": gallery.share_changed(weights),
        "seconds": round(seconds, 2),
    }


def main() -> None:
    """Measure what is not on record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gallery.table")
    parser.add_argument("--kind", default="unet", help="which of the gallery's denoisers")
    parser.add_argument("--work", type=Path, default=Path("runs/gallery"), help="for statistics")
    parser.add_argument("--rounds", type=int, default=6, help="of each row")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), metavar="METHOD")
    parser.add_argument("--sizes", nargs="*", type=int, default=list(SIZES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pipeline = sampling.load(WEIGHTS.parent.parent / arguments.kind)
    gallery = Gallery(pipeline, arguments.work / arguments.kind)
    judge = Judge.load()
    known = done()
    for number in range(arguments.rounds):
        for method in arguments.methods:
            for size in arguments.sizes:
                key = (arguments.kind, method, size, number)
                if key in known:
                    continue
                found = measure(gallery, judge, Row(method=method, size=size), number)
                where = dict(zip(("kind", "method", "size", "round"), key, strict=True))
                with RESULTS.open("a") as file:
                    file.write(json.dumps(where | found) + "\n")
                print(f"{method}, {size}, round {number}: {found['counts']}", flush=True)


if __name__ == "__main__":
    main()
