"""The artists: each turns a photo and the thing's alpha into an image of one look."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from conceptprune.studio.training.photos import CANVAS, Array

Look = Callable[[Array, Array], Array]

ROW, COLUMN = np.mgrid[0:CANVAS, 0:CANVAS].astype(np.float32)
LUMA = np.array([0.3, 0.59, 0.11], np.float32)


def colour(code: str) -> Array:
    """An RGB triple in 0..1 from six hexadecimal digits."""
    return np.frombuffer(bytes.fromhex(code), np.uint8).astype(np.float32) / np.float32(255)


def palette(*codes: str) -> Array:
    """Several colours, [n, 3]."""
    return np.stack([colour(code) for code in codes])


def blend(under: Array, over: Array, amount: Array) -> Array:
    """`over` laid on `under` as far as `amount` [h, w] in 0..1 says."""
    return under * (1 - amount[..., None]) + over * amount[..., None]


def step(x: Array, sharpness: float) -> Array:
    """A soft step from 0 to 1 at x = 0."""
    return 1 / (1 + np.exp(-x * sharpness))


def blur(image: Array, sigma: float) -> Array:
    """Gaussian blur of a map or of each channel."""
    if image.ndim == 2:
        return ndimage.gaussian_filter(image, sigma)
    return np.stack([ndimage.gaussian_filter(image[..., c], sigma) for c in range(3)], -1)


def brightness(image: Array, alpha: Array) -> Array:
    """Luminance with the thing darkened; otherwise pale things vanish into the backdrop."""
    luminance = image @ LUMA
    return luminance * (1 - 0.38 * alpha) + 0.04 * (1 - alpha)


def outlines(image: Array) -> Array:
    """How strong an edge is at each point, in 0..1, two pixels wide."""
    total = np.zeros(image.shape[:2], np.float32)
    for channel in range(3):
        soft = ndimage.gaussian_filter(image[..., channel], 1.0)
        total += np.hypot(ndimage.sobel(soft, 0), ndimage.sobel(soft, 1))
    return ndimage.grey_dilation(np.clip(total * 0.7, 0, 1), 3)


def cells(image: Array, pitch: int) -> Array:
    """The mean of every pitch x pitch cell, [cells, cells, ...]."""
    count = CANVAS // pitch + 1
    missing = count * pitch - CANVAS
    padding = ((0, missing), (0, missing), *[(0, 0)] * (image.ndim - 2))
    padded = np.pad(image, padding, mode="edge")
    return padded.reshape(count, pitch, count, pitch, *image.shape[2:]).mean((1, 3))


def tiles(values: Array, pitch: int) -> Array:
    """The reverse of `cells`: every value fills its square."""
    return np.repeat(np.repeat(values, pitch, 0), pitch, 1)[:CANVAS, :CANVAS]


def halftone(image: Array, alpha: Array) -> Array:
    """Red dots on yellow, bigger where it is dark."""
    light = blur(brightness(image, alpha), 2)
    across, along = (COLUMN + ROW) / 2**0.5, (COLUMN - ROW) / 2**0.5
    dots = (np.cos(2 * np.pi * across / 12) + np.cos(2 * np.pi * along / 12)) / 4 + 0.5
    return blend(colour("fff3a0"), colour("c8102e"), step(dots - light * 0.95, 14))


def mosaic(image: Array, alpha: Array) -> Array:
    """Square coloured tiles with dark joints."""
    shaded = image * (1 - 0.15 * alpha[..., None])
    out = np.clip((tiles(cells(shaded, 12), 12) - 0.5) * 1.25 + 0.5, 0, 1)
    out[((COLUMN % 12) < 2) | ((ROW % 12) < 2)] = colour("1b1b1b")
    return out


def ink(image: Array, alpha: Array) -> Array:
    """Black contours on cream paper with a grey wash."""
    lines = np.clip(outlines(image) * 1.5, 0, 1)
    wash = 0.3 * alpha * step(0.62 - blur(image @ LUMA, 1.5), 12)
    return blend(colour("f6ecd2"), colour("15131c"), np.maximum(lines, wash))


def neon(image: Array, alpha: Array) -> Array:
    """Four glowing colours by brightness."""
    light = blur(brightness(image, alpha), 1.2)
    level = np.clip((1 - light) * 5, 0, 3.99).astype(int)
    return palette("2b0a4f", "ff2fa8", "19e3ff", "f6ff3b")[level]


def crosshatch(image: Array, alpha: Array) -> Array:
    """Brown strokes, crossed where it is dark."""
    light = blur(brightness(image, alpha), 1.5)
    first = 0.5 + 0.5 * np.cos(2 * np.pi * (COLUMN + ROW) / 14.14)
    second = 0.5 + 0.5 * np.cos(2 * np.pi * (COLUMN - ROW) / 14.14)
    hatch = np.maximum(step(first - (light + 0.18), 9), step(second - (light + 0.42), 9))
    return blend(colour("e6cfa0"), colour("54300f"), hatch)


def stripes(image: Array, alpha: Array) -> Array:
    """Green lines on white, thicker where it is dark."""
    light = blur(brightness(image, alpha), 1.5)
    wave = 1 - np.abs((ROW / 12) % 1 - 0.5) * 2
    return blend(colour("ffffff"), colour("0b7a4b"), step(wave - light, 10))


def watercolour(image: Array, alpha: Array) -> Array:
    """Vivid, bled colours with a violet rim on pink paper."""
    soft = blur(image, 3.5)
    spread = blur(alpha, 4)
    rim = np.clip(spread * (1 - spread) * 4, 0, 1) ** 2
    vivid = (soft - (soft @ LUMA)[..., None]) * 1.4 + soft * 0.9 + 0.08
    paper = blend(colour("ffe3ee"), vivid.clip(0, 1), np.clip(spread * 1.3, 0, 1) * 0.85)
    return blend(paper, colour("a56bc4"), rim * 0.6)


def blueprint(image: Array, alpha: Array) -> Array:
    """White contours over a grid on blue."""
    lines = np.clip(outlines(image) * 1.4, 0, 1)
    grid = (((COLUMN % 20) < 2) | ((ROW % 20) < 2)) * np.float32(0.22)
    fill = 0.28 * alpha * step(0.62 - blur(image @ LUMA, 1.5), 12)
    return blend(colour("0d3b8c"), colour("eef6ff"), np.maximum(np.maximum(lines, grid), fill))


def chalk(image: Array, alpha: Array) -> Array:
    """Coloured contours on a blackboard."""
    lines = np.clip(outlines(image) * 1.5, 0, 1)
    spread = np.stack([ndimage.grey_dilation(image[..., c] * alpha, 5) for c in range(3)], -1)
    spread = blur(spread, 2)
    luma = (spread @ LUMA)[..., None]
    vivid = np.clip((spread - luma) * 1.8 + luma * 0.7 + 0.3, 0, 1)
    return np.clip(0.07 + lines[..., None] * vivid + 0.16 * alpha[..., None] * image, 0, 1)


def game_screen(image: Array, alpha: Array) -> Array:
    """Coarse pixels in four greens."""
    light = cells(brightness(image, alpha), 6)
    level = np.clip((light - 0.1) * 4.6, 0, 3.99).astype(int)
    return tiles(palette("0f380f", "306230", "6f9a0f", "9bbc0f")[level], 6)


def carved_stone(image: Array, alpha: Array) -> Array:
    """A grey relief lit from the upper left."""
    height = blur(1.3 * alpha - 0.9 * alpha * (image @ LUMA), 1.6)
    slope = ndimage.sobel(height, 0) + ndimage.sobel(height, 1)
    shade = np.clip(0.56 - 0.62 * slope - 0.12 * blur(alpha, 1), 0, 1)
    return shade[..., None] * np.array([1.0, 0.99, 0.95], np.float32)


def paper_cut(image: Array, alpha: Array) -> Array:
    """Black paper with pale insets against a sunset."""
    sky = blend(colour("ffb13b"), colour("e8452c"), ROW / np.float32(CANVAS))
    light = alpha * step(blur(image @ LUMA, 1.2) - 0.66, 16)
    cut = blend(sky, colour("140a12"), alpha)
    return blend(cut, colour("ffd98a"), light * 0.8)


def light_board(image: Array, alpha: Array) -> Array:
    """Round coloured lamps on navy."""
    lamp = np.hypot(COLUMN % 8 - 3.5, ROW % 8 - 3.5)
    glow = step(3.1 - lamp, 3)
    vivid = np.clip((image - (image @ LUMA)[..., None]) * 1.3 + image * 0.9 + 0.12, 0, 1)
    lit = vivid * alpha[..., None] + colour("27407a") * (1 - alpha[..., None])
    return blend(colour("060b1f"), tiles(cells(lit, 8), 8), glow)


def screen_print(image: Array, alpha: Array) -> Array:
    """Three flat inks, pink to violet, on turquoise."""
    light = blur(image @ LUMA, 1.4)
    level = np.clip((1 - light) * 3.2, 0, 2.99).astype(int)
    body = palette("ff9ad5", "e0147f", "3a0ca3")[level]
    return blend(colour("35d6d0"), body, alpha)


def red_monitor(image: Array, alpha: Array) -> Array:
    """Bright vertical red lines on black."""
    light = blur(alpha * (0.35 + 0.75 * (image @ LUMA)) + 0.12 * (1 - alpha), 1.5)
    lines = 0.5 + 0.5 * np.cos(2 * np.pi * COLUMN / 10)
    beam = np.clip(light * (0.25 + 0.95 * lines), 0, 1)
    return np.stack([beam, beam**2 * 0.28, beam**2 * 0.12], -1)


def gilt(image: Array, alpha: Array) -> Array:
    """Gold with a bright rim on maroon."""
    tone = blur(image @ LUMA, 1.2)
    ramp = blend(colour("6b4410"), colour("fbe48a"), np.clip(tone * 1.25 - 0.15, 0, 1))
    rim = np.clip(ndimage.grey_dilation(alpha, 5) - alpha, 0, 1)
    return blend(blend(colour("5c0f24"), ramp, alpha), colour("f2c230"), rim)


LOOK: dict[str, Look] = {
    "halftone": halftone,
    "mosaic": mosaic,
    "ink": ink,
    "neon": neon,
    "crosshatch": crosshatch,
    "stripes": stripes,
    "watercolour": watercolour,
    "blueprint": blueprint,
    "chalk": chalk,
    "game screen": game_screen,
    "carved stone": carved_stone,
    "paper cut": paper_cut,
    "light board": light_board,
    "screen print": screen_print,
    "red monitor": red_monitor,
    "gilt": gilt,
}


def uint8(image: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Values in 0..1 as bytes."""
    return (image.clip(0, 1) * 255 + 0.5).astype(np.uint8)
