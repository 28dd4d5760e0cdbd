"""How strong rewording must be, found on those who are erased alone.

Usage: python -m benchmarks.gallery.table.choose --kind unet --wordings 1

All strengths of what stays are multiplied by one factor. Larger ones keep more, and leave more. The
largest is taken at which the judge sees at most 4 % of the erased in 800 images. These have other
captions and other seeds than the table's. Kept artists are named to the edit, as for every method,
but no image of one is made. It is what `conceptprune tune` does, on the gallery's captions.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from benchmarks.gallery import sampling
from benchmarks.gallery.judge import WEIGHTS, Judge
from benchmarks.gallery.table.measure import images_of
from benchmarks.gallery.table.questions import ERASED_LOOKS, FIRST_SEED, Question, round_of
from benchmarks.gallery.table.rows import THINGS_NAMED, WEAKER, Gallery
from benchmarks.gallery.table.texts import ALL, EVERY_THING, TWO_WORDINGS, Which
from conceptprune.manifest import Reword
from pipelines.jobs.bisection import Bisection
from pipelines.jobs.strengths import scaled

FACTORS = (1.5, 1.25, 1.1, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
"""From the weakest edit to the strongest."""
AT_MOST = 0.04
EACH = 8
"""Images of an artist."""
ROUNDS = 20
"""Of the table, whose captions are not asked here."""
FROM: Mapping[str, Reword] = {"unet": THINGS_NAMED, "transformer": WEAKER}
GIVEN: Mapping[int, Which] = {1: EVERY_THING, 2: TWO_WORDINGS}
"""The captions that the edit is made from, by how many wordings they have."""


def times(settings: Reword, factor: float) -> Reword:
    """Settings with every strength of what stays multiplied by a factor."""
    return settings.model_copy(update=scaled(settings, factor))


def questions() -> list[Question]:
    """What the factors are compared on, artist by artist."""
    table = {
        (one.look, one.thing, one.template)
        for number in range(ROUNDS)
        for one in round_of(len(ERASED_LOOKS), number).erased
    }
    asked = []
    for look in ERASED_LOOKS:
        left = [which for which in ALL if (look, *which) not in table]
        places = np.random.default_rng(look).choice(len(left), EACH, replace=False)
        for time, place in enumerate(places):
            thing, template = left[place]
            asked.append(Question(thing, look, template, FIRST_SEED // 2 + 1000 * time + look))
    return asked


def share_seen(gallery: Gallery, judge: Judge, settings: Reword, given: Which) -> float:
    """The share of the erased that the judge still sees."""
    gallery.put(gallery.texts.reworded(ERASED_LOOKS, settings, given))
    asked = questions()
    verdicts = judge.verdicts(images_of(gallery.pipeline, asked))
    found = float((verdicts.look == np.array([one.look for one in asked])).mean())
    things = float((verdicts.thing == np.array([one.thing for one in asked])).mean())
    print(f"{settings}: {found:.2%} of the erased seen, {things:.1%} of things", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=tuple(FROM), required=True)
    parser.add_argument("--wordings", type=int, choices=tuple(GIVEN), default=1)
    arguments = parser.parse_args()
    kind, given = arguments.kind, GIVEN[arguments.wordings]
    torch.set_num_threads(1)
    gallery = Gallery(sampling.load(WEIGHTS.parent.parent / kind), Path())
    judge = Judge.load()
    search = Bisection(count=len(FACTORS), enough=AT_MOST)
    while (index := search.next) is not None:
        settings = times(FROM[kind], FACTORS[index])
        search.measured(share_seen(gallery, judge, settings, given))
    found = search.found
    print(f"{kind}: {'none is enough' if found is None else times(FROM[kind], FACTORS[found])}")


if __name__ == "__main__":
    main()
