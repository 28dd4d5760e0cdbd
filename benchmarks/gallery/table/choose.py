"""How strong rewording must be, found on those who are erased alone; and UCE, by the same rule.

Usage: python -m benchmarks.gallery.table.choose --kind unet [--wordings 2 | --uce]

All strengths of what stays are multiplied by one factor. Larger ones keep more, and leave more. The
largest is taken at which the judge sees at most 4 % of the erased in 800 images. These have other
captions and other seeds than the table's. Kept artists are named to the edit, as for every method,
but no image of one is made. It is what `conceptprune tune` does, on the gallery's captions.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.gallery import sampling
from benchmarks.gallery.judge import WEIGHTS, Judge
from benchmarks.gallery.table.measure import images_of
from benchmarks.gallery.table.questions import ERASED_LOOKS, FIRST_SEED, Question, round_of
from benchmarks.gallery.table.rows import THINGS_NAMED, TUNED_UCE, WEAKER, Gallery, Weights, uce
from benchmarks.gallery.table.texts import ALL, EVERY_THING, TWO_WORDINGS, Which
from conceptprune.manifest import Reword
from pipelines.jobs.bisection import Bisection
from pipelines.jobs.strengths import scaled

FACTORS = (1.5, 1.25, 1.1, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
"""From the weakest edit to the strongest."""
UCE_FACTORS = (1.0, 0.7, 0.5, 0.35, 0.25, 0.18, 0.13, 0.09, 0.06, 0.04, 0.025)
"""The same of UCE's scale of what is preserved. The last two were added when none of the others was
enough on the transformer."""
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


Candidates = Sequence[tuple[str, Callable[[Gallery], Weights]]]
"""Edits with their settings as text, from the weakest on."""


def reworded(gallery: Gallery, settings: Reword, given: Which) -> Weights:
    """Rewording of all that are erased."""
    return gallery.texts.reworded(ERASED_LOOKS, settings, given)


def rewordings(kind: str, given: Which) -> Candidates:
    """Of rewording: one for each factor."""
    all_settings = [times(FROM[kind], factor) for factor in FACTORS]
    return [(str(each), partial(reworded, settings=each, given=given)) for each in all_settings]


def uces() -> Candidates:
    """Of tuned UCE: one for each factor."""
    scales = [TUNED_UCE.preserve_scale * factor for factor in UCE_FACTORS]
    all_settings = [replace(TUNED_UCE, preserve_scale=scale) for scale in scales]
    return [(str(each), partial(uce, looks=ERASED_LOOKS, settings=each)) for each in all_settings]


def share_seen(gallery: Gallery, judge: Judge, weights: Weights) -> float:
    """The share of the erased that the judge still sees."""
    gallery.put(weights)
    asked = questions()
    verdicts = judge.verdicts(images_of(gallery.pipeline, asked))
    things = float((verdicts.thing == np.array([one.thing for one in asked])).mean())
    print(f"{things:.1%} of things", flush=True)
    return float((verdicts.look == np.array([one.look for one in asked])).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=tuple(FROM), required=True)
    method = parser.add_mutually_exclusive_group()
    method.add_argument("--wordings", type=int, choices=tuple(GIVEN), default=1)
    method.add_argument("--uce", action="store_true", help="UCE instead of rewording")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    kind = arguments.kind
    candidates = uces() if arguments.uce else rewordings(kind, GIVEN[arguments.wordings])
    gallery = Gallery(sampling.load(WEIGHTS.parent.parent / kind), Path())
    judge = Judge.load()
    search = Bisection(count=len(candidates), enough=AT_MOST)
    while (index := search.next) is not None:
        settings, weights = candidates[index]
        seen = share_seen(gallery, judge, weights(gallery))
        print(f"{settings}: {seen:.2%} of the erased seen", flush=True)
        search.measured(seen)
    print(f"{kind}: {'none is enough' if search.found is None else candidates[search.found][0]}")


if __name__ == "__main__":
    main()
