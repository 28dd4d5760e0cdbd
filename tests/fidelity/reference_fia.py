"""Forget-It-All's selection once more, as plainly as possible, in float64.

Shapes: P prompts, T denoiser calls, R rows (outputs) and C columns (inputs) of a weight.
"""

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def mask(weight: Array, target: Array, base: Array, *, r1: float, r2: float) -> NDArray[np.bool_]:
    """Pruned entries [R, C] of a weight; `target` and `base` are norms by prompt, [P, T, C]."""
    num_rows, num_columns = weight.shape
    size = num_rows * num_columns
    saliencies = []
    for call in range(target.shape[1]):
        of_base = base[:, call]
        contrast = target[:, call].mean(axis=0) - of_base.mean(axis=0) - of_base.std(axis=0)
        saliencies.append(np.abs(weight) * np.maximum(0, contrast))
    average = np.mean(saliencies, axis=0)
    votes = np.zeros_like(weight)
    for saliency in saliencies:
        cut = sorted(saliency.ravel().tolist(), reverse=True)[math.floor(r1 * size) - 1]
        votes += saliency > cut
    score = 0.5 * average / average.max() + 0.5 * votes / len(saliencies)
    chosen = np.zeros_like(weight, dtype=bool)
    in_layer = set(_best(score.ravel().tolist(), math.floor(r2 * size)))
    for row in range(num_rows):
        for column in _best(score[row].tolist(), math.floor(r2 * num_columns)):
            best_of_layer = row * num_columns + column in in_layer
            chosen[row, column] = best_of_layer and average[row, column] > 0
    return chosen


def _best(scores: list[float], count: int) -> list[int]:
    return sorted(range(len(scores)), key=lambda index: (-scores[index], index))[:count]
