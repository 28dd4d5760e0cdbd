"""Photos of things: colour emoji on a plain, softly lit backdrop."""

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from conceptprune.studio.names import THINGS

DEFAULT_FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
BITMAP_SIZE = 109  # the only size in which this bitmap font can be rendered
CANVAS = 128  # images are rendered at twice their final size

EMOJI = dict(zip(THINGS, "🐱🐶🚗🌳🏠🐠🦆🌻⛵🍎🚀🍄", strict=True))

Array = NDArray[np.float32]


@cache
def cut_out(emoji: str, font: Path = DEFAULT_FONT) -> Image.Image:
    """An emoji, cropped and centred on a transparent square."""
    glyphs = ImageFont.truetype(str(font), BITMAP_SIZE)
    drawn = Image.new("RGBA", (CANVAS + 8, CANVAS + 8), (0, 0, 0, 0))
    ImageDraw.Draw(drawn).text((0, 4), emoji, font=glyphs, embedded_color=True)
    drawn = drawn.crop(drawn.getbbox())
    side = max(drawn.size)
    square = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    square.paste(drawn, ((side - drawn.width) // 2, (side - drawn.height) // 2))
    return square


def photograph(
    thing: str, rng: np.random.Generator, font: Path = DEFAULT_FONT
) -> tuple[Array, Array]:
    """A photo [CANVAS, CANVAS, 3] in 0..1 and the thing's alpha [CANVAS, CANVAS]."""
    side = int(CANVAS * rng.uniform(0.74, 0.88))
    pixels = np.asarray(cut_out(EMOJI[thing], font).resize((side, side), Image.Resampling.LANCZOS))
    cut = pixels.astype(np.float32) / 255
    room = CANVAS - side
    x, y = (int(room / 2 + rng.uniform(-0.35, 0.35) * room) for _ in range(2))

    hue = rng.random()
    tint = 0.5 + 0.5 * np.cos(2 * np.pi * (hue + np.arange(3) / 3))
    light = np.linspace(0.04, -0.06, CANVAS)[:, None, None]
    image = np.broadcast_to(0.80 + 0.14 * tint, (CANVAS, CANVAS, 3)) + light
    image = image.astype(np.float32)
    alpha = np.zeros((CANVAS, CANVAS), np.float32)
    alpha[y : y + side, x : x + side] = cut[..., 3]
    inside = image[y : y + side, x : x + side]
    image[y : y + side, x : x + side] = inside * (1 - cut[..., 3:]) + cut[..., :3] * cut[..., 3:]
    return image.clip(0, 1), alpha
