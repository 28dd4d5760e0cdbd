"""Who is erased, and which images are asked for, in every round of the table."""

from dataclasses import dataclass

import numpy as np

from benchmarks.gallery.names import ARTISTS, ERASED, KEPT, THINGS
from conceptprune.studio.training.captions import NUM_TEMPLATES

SIZES = (1, 10, 32, 100)
"""How many artists one checkpoint erases."""
FIRST_SEED = 2_000_000
"""No setting was chosen with seeds from here on."""

LOOK = {artist: index + 1 for index, artist in enumerate(ARTISTS)}
KEPT_LOOKS = tuple(LOOK[artist] for artist in KEPT)
_ORDER = np.random.default_rng(0).permutation(len(ERASED))
ERASED_LOOKS = tuple(LOOK[ERASED[index]] for index in _ORDER)
"""The hundred in a random order, so that ten of them are not of one mark."""


@dataclass(frozen=True, slots=True)
class Question:
    """An image to ask for; look 0 is a photo."""

    thing: int
    look: int
    template: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """The images of one round: from other seeds than every other round's."""

    erased: tuple[Question, ...]
    kept: tuple[Question, ...]
    photos: tuple[Question, ...]


def erased_looks(size: int, number: int) -> tuple[int, ...]:
    """Who is erased: the first of the order; alone, another one in each round."""
    if size == 1:
        return (ERASED_LOOKS[number % len(ERASED_LOOKS)],)
    return ERASED_LOOKS[:size]


def round_of(size: int, number: int) -> Round:
    """About as many images of those erased as of the others."""
    erased = erased_looks(size, number)
    each = {1: 8, 10: 4, 32: 2}.get(size, 1)
    photos = 1 if size == 1 else 2
    seed = FIRST_SEED + 10_000 * number

    def asked(looks: tuple[int, ...], times: int, first: int) -> tuple[Question, ...]:
        return tuple(
            Question(
                thing=(3 * look + 5 * time + 7 * number) % len(THINGS),
                look=look,
                template=(look + time + number) % NUM_TEMPLATES,
                seed=seed + first + 200 * time + look,
            )
            for look in looks
            for time in range(times)
        )

    return Round(
        erased=asked(erased, each, 0),
        kept=asked(KEPT_LOOKS, 1, 5_000),
        photos=tuple(
            Question(
                thing, 0, (thing + time + number) % NUM_TEMPLATES, seed + 9_000 + 50 * time + thing
            )
            for thing in range(len(THINGS))
            for time in range(photos)
        ),
    )
