"""`python -m benchmarks.erasure.fusion`: 1, 2, 4 and 8 artists in one checkpoint by each fusion."""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.erasure.__main__ import GUIDANCE, NAMES, REPORTING_SEEDS, STEPS, row
from benchmarks.erasure.masks import MaskMaker, Setting
from benchmarks.erasure.scores import Exam, Examiner, exam
from conceptprune.manifest import Fuse
from conceptprune.models.stable_diffusion import StableDiffusion
from conceptprune.studio import model_path

NUMBERS = (1, 2, 4, 8)
IMAGES = 48
"""Images of the erased artists, and about as many of the others, for each mask."""


def fusions(fractions: Sequence[float]) -> Iterator[Fuse]:
    yield Fuse(how="union")
    yield Fuse(how="retain-shared", alpha=0.8)
    for fraction in fractions:
        yield Fuse(how="budget", fraction=fraction)


def questions(
    erased: Sequence[str], seeds: Sequence[int] = REPORTING_SEEDS, images: int = IMAGES
) -> Exam:
    """`images` images of the erased artists, and about as many of the others."""
    number = len(erased)
    asked = exam(erased, seeds, things_per_other=2)
    every = images // number
    step = max(1, len(asked.erased) // number // every)
    # Each artist is asked for equally often; things and seeds rotate.
    per_artist = len(asked.erased) // number
    picked = [
        asked.erased[artist * per_artist + (index * step) % per_artist]
        for artist in range(number)
        for index in range(every)
    ]
    spread = max(1, len(asked.others) // images)
    return Exam(erased=tuple(picked), others=asked.others[::spread], photos=asked.photos)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.erasure.fusion")
    parser.add_argument("--sparsity", type=float, default=0.10)
    parser.add_argument("--artists", type=int, nargs="+", default=NUMBERS)
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.02])
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).with_name("fusion_results.jsonl")
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    started = time.time()
    model = StableDiffusion.load(model_path())
    maker = MaskMaker(model, steps=STEPS, guidance=GUIDANCE)
    examiner = Examiner(model, steps=STEPS, guidance=GUIDANCE)
    setting = Setting(sparsity=arguments.sparsity, tau=10)
    for number in sorted(arguments.artists, reverse=True):
        erased, retained = NAMES[:number], NAMES[number:]
        for fusion in fusions(arguments.fractions):
            if number == 1 and fusion.how == "retain-shared":
                continue  # A single concept shares nothing: the mask is that of the union.
            mask = maker.fused(erased, setting, fusion, retained)
            line = row(
                examiner.score(questions(erased), mask),
                what="fusion",
                artists=number,
                fusion=fusion.key_parts,
                setting=asdict(setting),
                density=round(mask.density, 5),
            )
            with arguments.out.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")
            print(
                f"{time.time() - started:.0f} s: {number} by {fusion}, {mask.density:.4f}: "
                f"erased {line['erased look']['rate']}, others {line['others look']['rate']}",
                flush=True,
            )


if __name__ == "__main__":
    main()
