"""`python -m benchmarks.erasure PART ...`: the tables of the studio model's erasures.

`frontier` scores many settings on a few artists with the choosing seeds; the other parts score a
chosen setting on every artist, alone and four at a time, with other seeds.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.erasure import masks
from benchmarks.erasure.masks import MaskMaker, Setting
from benchmarks.erasure.scores import Examiner, Score, exam
from conceptprune.masks.mask import PruningMask, union_masks
from conceptprune.models.stable_diffusion import StableDiffusion
from conceptprune.studio import model_path
from conceptprune.studio.names import ARTISTS

STEPS = 20
GUIDANCE = 5.0
CHOOSING_SEEDS = (11,)
REPORTING_SEEDS = (101, 102, 103, 104)
CHOOSING_ARTISTS = (2, 7)
SPARSITIES = (0.005, 0.01, 0.02, 0.03, 0.05, 0.10, 0.15)
TAUS = (1, 10, 20)
PLAIN = Setting(sparsity=0.01, tau=10)
NAMES = tuple(artist.name for artist in ARTISTS)


def row(score: Score, **what: Any) -> dict[str, Any]:
    """One line of results, as JSON."""
    rates = {
        name: {
            "rate": round(rate.value, 4),
            "n": rate.total,
            "interval": [round(end, 4) for end in rate.interval()],
        }
        for name, rate in score.rates.items()
    }
    change = score.photo_change
    return {
        **what,
        **rates,
        "lost_to": dict(sorted(score.lost_to.items(), key=lambda item: -item[1])),
        "photo_change": round(float(sum(change) / len(change)), 3) if change else None,
    }


class Study:
    """One run: a model, its masks, its examiner, and a file of results."""

    def __init__(self, out: Path) -> None:
        self.model = StableDiffusion.load(model_path())
        self.maker = MaskMaker(self.model, steps=STEPS, guidance=GUIDANCE)
        self.examiner = Examiner(self.model, steps=STEPS, guidance=GUIDANCE)
        self.out = out

    def record(self, line: dict[str, Any]) -> None:
        """Append a line to the results and show its rates."""
        with self.out.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
        rates = {k: v["rate"] for k, v in line.items() if isinstance(v, dict) and "rate" in v}
        what = {k: v for k, v in line.items() if k in ("what", "artist", "setting", "density")}
        print(json.dumps(what), json.dumps(rates), flush=True)

    def alone(
        self, artists: Sequence[str], mask_of: Any, seeds: Sequence[int], things: int, **what: Any
    ) -> Score:
        """Erase each artist alone; add up the scores, and record one line for all."""
        total = Score()
        densities = []
        for artist in artists:
            mask: PruningMask | None = mask_of(artist)
            densities.append(mask.density if mask else 0.0)
            score = self.examiner.score(exam([artist], seeds, things_per_other=things), mask)
            if len(artists) > len(CHOOSING_ARTISTS):
                self.record(row(score, **what, artist=artist, density=densities[-1]))
            total.add(score)
        density = sum(densities) / len(densities)
        self.record(row(total, **what, artist="all", density=round(density, 5)))
        return total


def frontier(study: Study, center: Setting) -> None:
    """k, tau, branches and base around a setting, on a few artists and the choosing seeds."""
    artists = [NAMES[index] for index in CHOOSING_ARTISTS]
    study.alone(artists, lambda _: None, CHOOSING_SEEDS, 1, what="frontier: untouched")
    whole = study.maker.whole_site()
    study.alone(artists, lambda _: whole, CHOOSING_SEEDS, 1, what="frontier: whole site zeroed")
    for setting in masks.frontier(PLAIN, center, SPARSITIES, TAUS):

        def mask_of(artist: str, setting: Setting = setting) -> PruningMask:
            return study.maker.mask(artist, setting)

        study.alone(artists, mask_of, CHOOSING_SEEDS, 1, what="frontier", setting=asdict(setting))


def untouched(study: Study, _: Setting) -> None:
    """The untouched model, and the model with the whole site zeroed."""
    study.alone(NAMES, lambda _: None, REPORTING_SEEDS, 1, what="untouched")
    whole = study.maker.whole_site()
    study.alone(NAMES, lambda _: whole, REPORTING_SEEDS[:1], 1, what="whole site zeroed")


def chosen(study: Study, setting: Setting) -> None:
    """Each artist alone with the chosen setting."""
    _alone(study, setting, "chosen")


def published(study: Study, _: Setting) -> None:
    """Each artist alone with the paper's plain setting."""
    _alone(study, PLAIN, "published")


def _alone(study: Study, setting: Setting, what: str) -> None:
    def mask_of(artist: str) -> PruningMask:
        return study.maker.mask(artist, setting)

    study.alone(NAMES, mask_of, REPORTING_SEEDS, 1, what=what, setting=asdict(setting))


def scattered(study: Study, setting: Setting) -> None:
    """As many weights of each layer as the chosen masks have, at random places."""

    def mask_of(artist: str) -> PruningMask:
        return study.maker.random_like(study.maker.mask(artist, setting), NAMES.index(artist))

    study.alone(NAMES, mask_of, REPORTING_SEEDS[:1], 1, what="random, same density")


def together(study: Study, setting: Setting) -> None:
    """Four artists in one checkpoint by union, for each of four groups."""
    total = Score()
    for first in range(4):
        four = NAMES[first::4]
        fused = union_masks([study.maker.mask(artist, setting) for artist in four])
        questions = exam(four, REPORTING_SEEDS, things_per_other=1)
        score = study.examiner.score(questions, fused)
        study.record(row(score, what="four, union", artist="+".join(four), density=fused.density))
        total.add(score)
    study.record(row(total, what="four, union", artist="all"))


PARTS = {
    part.__name__: part for part in (frontier, untouched, chosen, published, scattered, together)
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.erasure", description=__doc__)
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--sparsity", type=float, default=0.05)
    parser.add_argument("--tau", type=int, default=10)
    parser.add_argument("--branches", default="conditional")
    parser.add_argument("--base", default="plain+retained-max")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results.jsonl"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    started = time.time()
    study = Study(arguments.out)
    setting = Setting(
        sparsity=arguments.sparsity,
        tau=arguments.tau,
        halves=arguments.branches,
        base=arguments.base,
    )
    for part in arguments.parts:
        PARTS[part](study, setting)
    print(f"{time.time() - started:.0f} s")


if __name__ == "__main__":
    main()
