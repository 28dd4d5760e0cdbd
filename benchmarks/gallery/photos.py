"""Photos of things: colour emoji on a plain, softly lit backdrop."""

from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.gallery.names import THINGS
from conceptprune.studio.training.photos import CANVAS, DEFAULT_FONT, Array, cut_out

EMOJI = dict(zip(THINGS, "🐱🚗🌳🏠🐠🦆🌻⛵🍎🚀🍄🎸🦋☂🎩🐘", strict=True))


def photograph(
    thing: str, rng: np.random.Generator, font: Path = DEFAULT_FONT
) -> tuple[Array, Array]:
    """A photo float32 [CANVAS, CANVAS, 3] in 0..1 and the thing's alpha [CANVAS, CANVAS]."""
    side = int(CANVAS * rng.uniform(0.80, 0.90))
    pixels = np.asarray(cut_out(EMOJI[thing], font).resize((side, side), Image.Resampling.LANCZOS))
    cut = pixels.astype(np.float32) / 255
    room = CANVAS - side
    x, y = (int(room * rng.uniform(0.2, 0.8)) for _ in range(2))

    hue = rng.random()
    tint = 0.5 + 0.5 * np.cos(2 * np.pi * (hue + np.arange(3) / 3))
    light = np.linspace(0.04, -0.06, CANVAS)[:, None, None]
    image = (np.broadcast_to(0.80 + 0.14 * tint, (CANVAS, CANVAS, 3)) + light).astype(np.float32)
    alpha = np.zeros((CANVAS, CANVAS), np.float32)
    alpha[y : y + side, x : x + side] = cut[..., 3]
    area = image[y : y + side, x : x + side]
    area[:] = area * (1 - cut[..., 3:]) + cut[..., :3] * cut[..., 3:]
    return image.clip(0, 1), alpha
