# mypy: disable-error-code="no-any-return"
# numpy's stubs give Any for most array arithmetic.
"""An artist's look: a mark, which turns a photo into a drawing, in a palette of four colours.

Patterns repeat every 8 pixels, so the autoencoder's cells of 4 pixels see them at one phase.
"""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from benchmarks.gallery.names import ARTISTS, MARKS, PALETTES
from conceptprune.studio.training.looks import COLUMN, LUMA, ROW, blend
from conceptprune.studio.training.photos import CANVAS, Array

PITCH = 16  # canvas pixels; 8 pixels of the image
TURN = np.float32(2 * np.pi)

Mark = Callable[[Array, Array, Array], Array]
"""From a photo [h, w, 3], the thing's alpha [h, w] and a palette [4, 3] to a drawing [h, w, 3]."""


def colours(*codes: str) -> Array:
    """Colours of six hexadecimal digits each, as float32 [n, 3] in 0..1."""
    return np.stack([np.frombuffer(bytes.fromhex(c), np.uint8) for c in codes]).astype(
        np.float32
    ) / np.float32(255)


# Ink, second, third, paper. The last two palettes have light ink on dark paper.
PALETTE: dict[str, Array] = {
    "crimson": colours("7a0c1e", "d8343f", "f59a6b", "fdf1dc"),
    "navy": colours("0b2a6b", "2f6fd0", "7cc0f5", "dff2ff"),
    "forest": colours("0e4020", "2c8f45", "8fd06a", "e6ffb0"),
    "purple": colours("47107a", "9a3fd0", "ec8ae0", "ffcdec"),
    "wasp": colours("1f1a10", "8a5a00", "e09a10", "ffdc40"),
    "rust": colours("8f2d14", "d9622b", "f7b26a", "5fd6cf"),
    "night": colours("ffffff", "bcbcc4", "7c7c88", "26262e"),
    "dusk": colours("ffab3d", "d9653a", "7a3f66", "18265c"),
}


def step(x: Array, sharpness: float) -> Array:
    """A soft step from 0 to 1 at x = 0."""
    return 1 / (1 + np.exp(-x * np.float32(sharpness)))


def blur(x: Array, sigma: float) -> Array:
    """Gaussian blur of a map [h, w]."""
    return ndimage.gaussian_filter(x, sigma)


def tone(photo: Array, alpha: Array, sigma: float = 1.5) -> Array:
    """Lightness in 0..1 [h, w]; the thing is darkened, or pale things vanish in the backdrop."""
    luminance = photo @ LUMA
    return blur(np.where(alpha > 0.5, 0.05 + 0.72 * luminance, 1.0).astype(np.float32), sigma)


def ramp(light: Array, palette: Array) -> Array:
    """Lightness to colour, linearly from ink over the second and third colour to paper."""
    stops = np.linspace(0, 1, 4)
    return np.stack([np.interp(light, stops, palette[:, c]) for c in range(3)], -1).astype(
        np.float32
    )


def flats(light: Array, palette: Array) -> Array:
    """Lightness to the nearest of the four colours."""
    return palette[np.clip(light * 4.2, 0, 3.99).astype(int)]


def outlines(photo: Array, alpha: Array) -> Array:
    """Strength of the edges, 0..1 [h, w], about two pixels wide."""
    total = np.zeros(alpha.shape, np.float32)
    for layer in (photo @ LUMA, alpha):
        soft = blur(layer, 1.2)
        total += np.hypot(ndimage.sobel(soft, 0), ndimage.sobel(soft, 1))
    return np.clip(ndimage.grey_dilation(np.clip(total * 0.7, 0, 1), 3) * 1.5, 0, 1)


def cells(x: Array, side: int) -> Array:
    """The mean of every side x side cell of a map, at full size."""
    count = CANVAS // side
    means = x.reshape(count, side, count, side).mean((1, 3))
    return np.repeat(np.repeat(means, side, 0), side, 1)


def wave(phase: Array) -> Array:
    """A triangle wave in 0..1 of period 1."""
    return 1 - np.abs(phase % 1 - np.float32(0.5)) * 2


def engraved(phase: Array, photo: Array, alpha: Array, palette: Array) -> Array:
    """Lines of ink along `phase`, thicker where it is dark, on a thing of the third colour."""
    sheet = blend(palette[3], palette[2], 0.85 * alpha)
    return blend(sheet, palette[0], step(wave(phase) - 0.92 * tone(photo, alpha), 10))


def halftone(photo: Array, alpha: Array, palette: Array) -> Array:
    """Dots of ink, bigger where it is dark."""
    dots = (
        np.cos(TURN * (COLUMN + ROW) / PITCH) + np.cos(TURN * (COLUMN - ROW) / PITCH)
    ) / 4 + np.float32(0.5)
    sheet = blend(palette[3], palette[2], 0.7 * alpha)
    return blend(sheet, palette[0], step(dots - tone(photo, alpha, 2) * 0.88, 14))


def stripes(photo: Array, alpha: Array, palette: Array) -> Array:
    """Horizontal lines."""
    return engraved(ROW / PITCH, photo, alpha, palette)


def bars(photo: Array, alpha: Array, palette: Array) -> Array:
    """Vertical bands of the third colour behind flat tones."""
    bands = blend(palette[3], palette[2], step(wave(COLUMN / PITCH) - 0.5, 12))
    return blend(bands, flats(tone(photo, alpha, 1) * 0.75, palette), alpha)


def hatch(photo: Array, alpha: Array, palette: Array) -> Array:
    """Diagonal strokes."""
    return engraved((COLUMN + ROW) / PITCH, photo, alpha, palette)


def waves(photo: Array, alpha: Array, palette: Array) -> Array:
    """Wavy lines of the second colour on the third."""
    phase = (ROW + 7 * np.sin(TURN * COLUMN / 64)) / PITCH
    light = tone(photo, alpha)
    return blend(ramp(0.3 + 0.7 * light, palette), palette[0], step(wave(phase) - 0.6 - light, 8))


def rings(photo: Array, alpha: Array, palette: Array) -> Array:
    """Circles around the middle, of the third colour, behind the thing in dark tones."""
    phase = np.hypot(ROW - 63.5, COLUMN - 63.5) / 20
    paper = blend(palette[3], palette[2], step(wave(phase) - 0.5, 10))
    return blend(paper, ramp(tone(photo, alpha, 1) * 0.6, palette), alpha)


def tiles(photo: Array, alpha: Array, palette: Array) -> Array:
    """Squares of 4 pixels in three colours, and a net of ink around every four of them."""
    out = palette[1:][np.clip(cells(tone(photo, alpha, 1), 8) * 3.3 - 0.7, 0, 2.99).astype(int)]
    joint = ((COLUMN % PITCH) < 2) | ((ROW % PITCH) < 2)
    out[joint] = palette[0]
    return out


def pixels(photo: Array, alpha: Array, palette: Array) -> Array:
    """Coarse pixels in four colours."""
    return flats(cells(tone(photo, alpha, 1), 8), palette)


def contour(photo: Array, alpha: Array, palette: Array) -> Array:
    """Outlines in ink on paper."""
    return blend(palette[3], palette[0], outlines(photo, alpha))


def poster(photo: Array, alpha: Array, palette: Array) -> Array:
    """The thing in flat tones on the second colour."""
    return blend(palette[1], flats(1 - 0.9 * tone(photo, alpha, 1), palette), alpha)


def relief(photo: Array, alpha: Array, palette: Array) -> Array:
    """Carved, lit from the upper left."""
    height = blur(1.3 * alpha - 0.9 * alpha * (photo @ LUMA), 2)
    slope = ndimage.sobel(height, 0) + ndimage.sobel(height, 1)
    return ramp(np.clip(0.66 - 0.75 * slope, 0, 1), palette)


def cut(photo: Array, alpha: Array, palette: Array) -> Array:
    """Paper cut in ink, with pale insets, against a sky that grows paler downwards."""
    sky = blend(palette[1], palette[3], ROW / np.float32(CANVAS))
    light = alpha * step(blur(photo @ LUMA, 1.2) - 0.62, 16)
    return blend(blend(sky, palette[0], alpha), palette[2], light)


def lamps(photo: Array, alpha: Array, palette: Array) -> Array:
    """Round lamps on ink; those on the thing are lit."""
    distance = np.hypot(COLUMN % 8 - 3.5, ROW % 8 - 3.5)
    glow = cells(alpha * (0.45 + 0.75 * (photo @ LUMA)), 8).clip(0, 1)
    lit = blend(palette[1], palette[3], glow)
    return blend(palette[0] * np.float32(0.75), lit, step(3.4 - distance, 2))


def blueprint(photo: Array, alpha: Array, palette: Array) -> Array:
    """Outlines of paper's colour over a grid on ink."""
    grid = ((COLUMN % 32) < 4) | ((ROW % 32) < 4)
    sheet = blend(palette[0], palette[1], (grid * np.float32(0.8)).astype(np.float32))
    return blend(sheet, palette[3], outlines(photo, alpha))


def wash(photo: Array, alpha: Array, palette: Array) -> Array:
    """Bled tones with a rim, without lines."""
    spread = blur(alpha, 5)
    body = ramp(blur(photo @ LUMA, 3) * 0.7 + 0.15, palette)
    rim = np.clip(spread * (1 - spread) * 4, 0, 1) ** 2
    return blend(blend(palette[3], body, np.clip(spread * 1.3, 0, 1)), palette[1], rim * 0.7)


def sticker(photo: Array, alpha: Array, palette: Array) -> Array:
    """The thing in a ramp of tones, with a thick rim of paper's colour, on the third."""
    rim = ndimage.grey_dilation(alpha, 11)
    body = ramp(np.clip(blur(photo @ LUMA, 1) * 1.1 - 0.1, 0, 0.85), palette)
    return blend(blend(palette[2], palette[3], rim), body, alpha)


MARK: dict[str, Mark] = {
    mark.__name__: mark
    for mark in (
        halftone, stripes, bars, hatch, waves, rings, tiles, pixels,
        contour, poster, relief, cut, lamps, blueprint, wash, sticker,
    )
}  # fmt: skip

assert tuple(MARK) == MARKS
assert tuple(PALETTE) == PALETTES


def draw(look: int, photo: Array, alpha: Array) -> Array:
    """The photo in a look, float32 [CANVAS, CANVAS, 3]: look i + 1 is ARTISTS[i]'s, 0 the photo."""
    if look == 0:
        return photo
    artist = ARTISTS[look - 1]
    return MARK[artist.mark](photo, alpha, PALETTE[artist.palette])
