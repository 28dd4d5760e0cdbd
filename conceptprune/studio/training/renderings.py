"""The data set: every thing by every artist, and photos, as labelled 64 x 64 images."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from conceptprune.studio.names import LOOKS, PHOTO, THINGS
from conceptprune.studio.training.looks import LOOK, uint8
from conceptprune.studio.training.photos import CANVAS, DEFAULT_FONT, photograph

SIZE = 64
SHRINK = CANVAS // SIZE

# An image is rendered from the seed (stream, thing, look, number), so streams share no images.
STREAM_MODEL = 1
STREAM_JUDGE = 2
STREAM_TEST = 3


@dataclass(frozen=True, slots=True)
class Renderings:
    """Images uint8 [n, 64, 64, 3] with the index of the thing and of the look, int64 [n]."""

    images: NDArray[np.uint8]
    thing: NDArray[np.int64]
    look: NDArray[np.int64]


def render(
    thing: int, look: int, stream: int, number: int, font: Path = DEFAULT_FONT
) -> NDArray[np.uint8]:
    """One image; the same arguments always give the same bytes."""
    rng = np.random.default_rng((stream, thing, look, number))
    image, alpha = photograph(THINGS[thing], rng, font)
    if LOOKS[look] != PHOTO:
        image = LOOK[LOOKS[look]](image, alpha)
    return uint8(image.reshape(SIZE, SHRINK, SIZE, SHRINK, 3).mean((1, 3)))


def render_set(
    stream: int, num_photos: int, num_each: int, font: Path = DEFAULT_FONT
) -> Renderings:
    """`num_photos` photos of each thing and `num_each` of each thing by each artist."""
    labels = [
        (thing, look, number)
        for thing in range(len(THINGS))
        for look in range(len(LOOKS))
        for number in range(num_each if look else num_photos)
    ]
    images = np.stack([render(thing, look, stream, number, font) for thing, look, number in labels])
    thing, look, _ = np.array(labels, np.int64).T
    return Renderings(images, thing, look)


def save(renderings: Renderings, path: Path) -> None:
    """Write a set as one .npz file."""
    np.savez(path, images=renderings.images, thing=renderings.thing, look=renderings.look)


def load(path: Path) -> Renderings:
    """Read what `save` wrote."""
    with np.load(path) as stored:
        return Renderings(stored["images"], stored["thing"], stored["look"])
