"""Compact coding of sorted flat indices: mostly one byte per entry of a sparse mask.

Each gap to the next entry is written in base 255: a byte 255 skips 255 positions without an entry;
any other byte skips its value and marks one. At 2 % density this takes about 1.01 bytes per entry.
"""

import numpy as np
from numpy.typing import NDArray

_SKIP = 255


def encode_entries(entries: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Code strictly increasing, non-negative indices (int64 [n]) as bytes (uint8 [m], m >= n).

    Raises:
        ValueError: the indices are not strictly increasing from 0 on.
    """
    gaps = np.diff(entries, prepend=0)
    if len(entries) and (entries[0] < 0 or (gaps[1:] <= 0).any()):
        raise ValueError("mask entries must be non-negative and strictly increasing")
    skips, marks = np.divmod(gaps, _SKIP)
    coded = np.full(len(entries) + int(skips.sum()), _SKIP, dtype=np.uint8)
    coded[np.cumsum(skips + 1) - 1] = marks
    return coded


def decode_entries(coded: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The inverse of `encode_entries`.

    Raises:
        ValueError: bytes that `encode_entries` never writes: two marks in one place, or a skip at
        the end.
    """
    marks = coded != _SKIP
    if len(coded) and not marks[-1]:
        raise ValueError("its coded entries end before the last of them")
    if ((coded[1:] == 0) & marks[:-1]).any():
        raise ValueError("an entry occurs twice")
    positions: NDArray[np.int64] = np.cumsum(coded, dtype=np.int64)
    entries: NDArray[np.int64] = positions[marks]
    return entries
