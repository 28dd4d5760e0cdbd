"""What a row costs: `python -m benchmarks.gallery.table.costs` continues costs.jsonl.

Seconds of one core from nothing but the pipeline to the changed weights, and bytes of the file that
a user would keep: a mask where weights are only zeroed, else the changed tensors in float16.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from benchmarks.gallery import sampling
from benchmarks.gallery.judge import WEIGHTS
from benchmarks.gallery.table.pruning import Masks
from benchmarks.gallery.table.questions import SIZES, erased_looks
from benchmarks.gallery.table.rows import METHODS, PRUNING, Gallery, Row
from conceptprune.masks.layer_mask import LayerMask
from conceptprune.masks.mask import PruningMask
from conceptprune.models.weights import weight_digest

RESULTS = Path(__file__).with_name("costs.jsonl")
SIDES = 3
"""So many artists' statistics are collected to tell how long one takes."""


def seconds_a_side(gallery: Gallery) -> float:
    """Of collecting one artist's statistics."""
    with tempfile.TemporaryDirectory() as folder:
        masks = Masks(gallery.model, Path(folder))
        begun = time.process_time()
        for look in erased_looks(SIDES, 0):
            masks.side(look)
        return (time.process_time() - begun) / SIDES


def kept_bytes(gallery: Gallery, weights: Mapping[str, Tensor]) -> int:
    """Of the file with these changes."""
    untouched = dict(gallery.model.denoiser.named_parameters())
    changes = {name: (new, untouched[name].detach()) for name, new in weights.items()}
    if all(bool(((new == old) | (new == 0)).all()) for new, old in changes.values()):
        layers = {
            name.removesuffix(".weight"): LayerMask(
                shape=(new.shape[0], new.shape[1]),
                entries=((new == 0) & (old != 0)).flatten().nonzero().flatten().numpy(),
                weight_digest=weight_digest(old),
            )
            for name, (new, old) in changes.items()
        }
        component = gallery.model.component
        mask = PruningMask(concepts=("all",), component=component, layers=layers, provenance={})
        return len(mask.to_bytes())
    return len(safetensors.torch.save({name: w.half() for name, w in weights.items()}))


def main() -> None:
    """Measure what is not on record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gallery.table.costs")
    parser.add_argument("--kind", default="unet")
    parser.add_argument("--work", type=Path, default=Path("runs/gallery"), help="for statistics")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), metavar="METHOD")
    parser.add_argument("--sizes", nargs="*", type=int, default=list(SIZES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pipeline = sampling.load(WEIGHTS.parent.parent / arguments.kind)
    columns = ("kind", "method", "size")
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    known = {tuple(line[name] for name in columns) for line in map(json.loads, lines)}
    side = None
    for method in arguments.methods:
        for size in arguments.sizes:
            key = (arguments.kind, method, size)
            if key in known or method == "untouched":
                continue
            # A new one each time, so that nothing is encoded or selected already.
            gallery = Gallery(pipeline, arguments.work / arguments.kind)
            looks = erased_looks(size, 0)
            if method in PRUNING:
                side = seconds_a_side(gallery) if side is None else side
                for look in (0, *looks):
                    gallery.masks.side(look)
            begun = time.process_time()
            weights = Row(method=method, size=size).weights(gallery, looks)
            seconds = time.process_time() - begun
            if method in PRUNING and side is not None:
                # One for each artist, and one for the photos.
                seconds += (size + 1) * side
            line: dict[str, Any] = dict(zip(columns, key, strict=True)) | {
                "seconds": round(seconds, 2),
                "bytes": kept_bytes(gallery, weights),
            }
            with RESULTS.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(line, flush=True)


if __name__ == "__main__":
    main()
