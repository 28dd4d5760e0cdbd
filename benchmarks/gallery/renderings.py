# mypy: disable-error-code="no-any-return"
# numpy's stubs give Any for most array arithmetic.
"""Sets of images: rendered once from a seed, kept as arrays."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.gallery.looks import draw
from benchmarks.gallery.names import NUM_LOOKS, THINGS
from benchmarks.gallery.photos import photograph
from conceptprune.studio.training.photos import CANVAS, DEFAULT_FONT, Array

SIDE = 64


@dataclass(frozen=True, slots=True)
class Renderings:
    """Images uint8 [n, SIDE, SIDE, 3] with their thing and look, int64 [n]."""

    images: NDArray[np.uint8]
    thing: NDArray[np.int64]
    look: NDArray[np.int64]

    def save(self, path: Path) -> None:
        """Write a compressed file of three arrays."""
        np.savez_compressed(path, images=self.images, thing=self.thing, look=self.look)

    @classmethod
    def load(cls, path: Path) -> "Renderings":
        """Read what `save` wrote."""
        with np.load(path) as arrays:
            return cls(arrays["images"], arrays["thing"], arrays["look"])


def shrink(canvas: Array) -> NDArray[np.uint8]:
    """A drawing at twice the size, in 0..1, as an image of bytes."""
    factor = CANVAS // SIDE
    means = canvas.reshape(SIDE, factor, SIDE, factor, 3).mean((1, 3))
    return (means.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def render(
    thing: int, look: int, seed: tuple[int, ...], font: Path = DEFAULT_FONT
) -> NDArray[np.uint8]:
    """One image uint8 [SIDE, SIDE, 3]; the seed places the thing and chooses its backdrop."""
    rng = np.random.default_rng((*seed, thing, look))
    photo, alpha = photograph(THINGS[thing], rng, font)
    return shrink(draw(look, photo, alpha))


def labels(num_photos: int, num_each: int) -> Iterator[tuple[int, int, int]]:
    """(thing, look, number) of a set: `num_photos` of a thing, `num_each` of it by each artist."""
    for thing in range(len(THINGS)):
        for look in range(NUM_LOOKS):
            for number in range(num_each if look else num_photos):
                yield thing, look, number


def render_set(
    stream: int, num_photos: int, num_each: int, font: Path = DEFAULT_FONT
) -> Renderings:
    """All things in all looks; sets of different streams share no rendering."""
    asked = list(labels(num_photos, num_each))
    images = np.stack([render(t, k, (stream, n), font) for t, k, n in asked])
    thing, look, _ = np.array(asked).T
    return Renderings(images, thing, look)
