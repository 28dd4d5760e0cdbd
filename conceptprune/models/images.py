"""Images as arrays, and as PNG files: equal images give equal files."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PilImage

Image = NDArray[np.uint8]
"""[height, width, 3], RGB."""


def png(image: Image) -> bytes:
    """A PNG file of an image."""
    sink = io.BytesIO()
    PilImage.fromarray(image).save(sink, format="png", optimize=False)
    return sink.getvalue()


def read_image(data: bytes) -> Image:
    """Read an image from a PNG file, or from any other format that pillow reads."""
    with PilImage.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))
