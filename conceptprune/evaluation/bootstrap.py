"""95 % intervals of means: percentiles of bootstrap resamples (Efron 1979)."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np

from conceptprune.digest import seed_from

LEVEL = 0.95
CHUNK = 1 << 22
"""Resampled values held at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean and its interval; `method` says how the interval was computed."""

    value: float
    low: float
    high: float
    method: str


def mean_interval(
    values: Sequence[float], *, resamples: int, seed: int, what: str = ""
) -> Interval:
    """The mean of `values` and its interval.

    If all values are zero (or all are one), a bootstrap interval has no width and would claim
    certainty, so it is Wilson's interval instead.

    Args:
        values: one per image.
        resamples: how often to resample.
        seed: seed of the resampling.
        what: name of the number; each number has its own resamples, independent of others.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("no values to take the mean of")
    array = np.sort(np.asarray(values, np.float64))
    value = float(array.mean())
    if array[0] == array[-1] and array[0] in (0.0, 1.0):
        low, high = wilson(int(array.sum()), len(array))
        return Interval(value=value, low=low, high=high, method="wilson")
    generator = np.random.Generator(
        np.random.PCG64(seed_from(f"bootstrap {seed} of {what}", bits=64))
    )
    size = max(1, CHUNK // len(array))
    means = [
        array[generator.integers(0, len(array), (min(size, resamples - first), len(array)))].mean(1)
        for first in range(0, resamples, size)
    ]
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return Interval(value=value, low=float(low), high=float(high), method="bootstrap")


def wilson(hits: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a rate (Wilson 1927), which also holds at 0 and 1.

    The normal quantile is rounded to 1.96, as in stored summaries.
    """
    z, rate = 1.96, hits / total
    middle = (rate + z * z / (2 * total)) / (1 + z * z / total)
    half = z * sqrt(rate * (1 - rate) / total + z * z / (4 * total * total)) / (1 + z * z / total)
    return max(0.0, middle - half), min(1.0, middle + half)


def interval_settings(interval: Interval, *, resamples: int, seed: int) -> dict[str, Any]:
    """An interval's entries in a summary's settings."""
    if interval.method == "wilson":
        return {"method": "wilson", "level": LEVEL}
    return {"method": "bootstrap", "level": LEVEL, "resamples": resamples, "seed": seed}
