"""One round of one checkpoint: what the judge sees in its images."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from diffusers import DiffusionPipeline
from numpy.typing import NDArray

from benchmarks.gallery import sampling
from benchmarks.gallery.captions import caption
from benchmarks.gallery.judge import Judge
from benchmarks.gallery.table.questions import Question, Round

Count = tuple[int, int]
"""Hits, and images."""


def images_of(pipeline: DiffusionPipeline, asked: Sequence[Question]) -> NDArray[np.uint8]:
    """uint8 [n, 64, 64, 3]."""
    prompts = [caption(each.thing, each.look, each.template) for each in asked]
    return sampling.generate(pipeline, prompts, [each.seed for each in asked])


def untouched_images(
    pipeline: DiffusionPipeline, asked: Sequence[Question], folder: Path
) -> NDArray[np.uint8]:
    """The untouched model's images of what must stay, kept in `folder` for all rows."""
    name = hashlib.sha256(repr(tuple(asked)).encode()).hexdigest()[:16]
    path = folder / f"{name}.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        np.save(path.with_suffix(".part.npy"), images_of(pipeline, asked))
        path.with_suffix(".part.npy").replace(path)
    kept: NDArray[np.uint8] = np.load(path)
    return kept


def counts(judge: Judge, round_: Round, images: NDArray[np.uint8]) -> dict[str, Count]:
    """Artists seen among the erased and the kept; things in artists' images; photos, and things
    in photos. `images` are of the erased, the kept and the photos, in this order."""
    asked = [*round_.erased, *round_.kept, *round_.photos]
    seen = judge.verdicts(images)
    look = seen.look == np.array([each.look for each in asked])
    thing = seen.thing == np.array([each.thing for each in asked])
    first = len(round_.erased)
    last = first + len(round_.kept)

    def count(right: NDArray[np.bool_]) -> Count:
        return int(right.sum()), len(right)

    return {
        "erased": count(look[:first]),
        "kept": count(look[first:last]),
        "thing": count(thing[:last]),
        "photo": count(look[last:]),
        "thing in photo": count(thing[last:]),
    }


def distance(images: NDArray[np.uint8], before: NDArray[np.uint8]) -> float:
    """Mean over images of the root mean square difference of their pixels, of 255."""
    apart = (images.astype(np.float32) - before.astype(np.float32)) ** 2
    return float(np.sqrt(apart.mean((1, 2, 3))).mean())
