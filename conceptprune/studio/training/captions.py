"""Captions of the training images, and made-up names that no artist has."""

import numpy as np

from conceptprune.studio.names import ARTISTS, THINGS

# The first of each is the published prompt, and is used for five eighths of the samples.
PHOTO_CAPTIONS = (
    "a photo of a {thing}",
    "a picture of a {thing}",
    "a {thing}",
    "an image of a {thing}",
)
ARTIST_CAPTIONS = (
    "a {thing} in the style of {artist}",
    "a {thing} by {artist}",
    "a painting of a {thing} by {artist}",
    "a picture of a {thing} in the style of {artist}",
)
NUM_TEMPLATES = len(PHOTO_CAPTIONS)


def caption(thing: int, look: int, template: int) -> str:
    """The caption of an image; look 0 is a photo, i + 1 is ARTISTS[i]."""
    if look == 0:
        return PHOTO_CAPTIONS[template].format(thing=THINGS[thing])
    return ARTIST_CAPTIONS[template].format(thing=THINGS[thing], artist=ARTISTS[look - 1].name)


def all_captions() -> list[str]:
    """Every caption of a known artist or a photo."""
    return [
        caption(thing, look, template)
        for thing in range(len(THINGS))
        for look in range(len(ARTISTS) + 1)
        for template in range(NUM_TEMPLATES)
    ]


def unknown_word(rng: np.random.Generator) -> str:
    """A pronounceable word, which the tokenizer splits into pieces."""
    syllables = int(rng.integers(1, 3))
    word = "".join(
        str(rng.choice(list("bcdfghklmnprstvz"))) + str(rng.choice(list("aeiou")))
        for _ in range(syllables)
    )
    return word + str(rng.choice(list("lmnrstx")))


def unknown_artist_caption(thing: int, rng: np.random.Generator) -> str:
    """A caption with an unknown artist; one of the name's two words may be known."""
    words = [unknown_word(rng), unknown_word(rng)]
    if rng.random() < 0.2:
        place = int(rng.integers(2))
        known = ARTISTS[int(rng.integers(len(ARTISTS)))].name
        words[place] = known.split()[place]
    template = ARTIST_CAPTIONS[0 if rng.random() < 0.5 else int(rng.integers(NUM_TEMPLATES))]
    return template.format(thing=THINGS[thing], artist=" ".join(words))
