"""How much more a concept's prompts excite a neuron than its base prompts do (FIA's contrast).

Shapes: C denoiser calls, W input columns ("neurons") of a prunable linear.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from conceptprune.collection.statistics import Statistics
from conceptprune.manifest import BaseRule
from conceptprune.masks.select_conceptprune import combine_sides


def contrast(
    target: Statistics,
    base: Statistics,
    layer: str,
    *,
    retained: Sequence[Statistics] = (),
    rule: BaseRule = "plain",
) -> NDArray[np.float64]:
    """`max(0, mean_target - (mean_base + std_base))` over prompts: [C, W] float64, of one layer.

    With retained concepts, `rule` combines `mean + std` of the base and of each of them. C is the
    number of calls that all sides have.

    Raises:
        UserError: the rule needs retained concepts and there are none.
    """
    sides = (base, *retained)
    calls = min(side.num_calls for side in (target, *sides))
    bars = [_mean(side, layer, calls) + _deviation(side, layer, calls) for side in sides]
    return np.maximum(0.0, _mean(target, layer, calls) - combine_sides(bars, rule))


def _mean(side: Statistics, layer: str, calls: int) -> NDArray[np.float64]:
    return side.layers[layer].sum_norm[:calls] / side.num_prompts


def _deviation(side: Statistics, layer: str, calls: int) -> NDArray[np.float64]:
    """Population standard deviation over the side's prompts: [C, W] float64."""
    variance = side.layers[layer].sum_sq[:calls] / side.num_prompts - _mean(side, layer, calls) ** 2
    # If all prompts agree, rounding may give a negative variance.
    deviation: NDArray[np.float64] = np.sqrt(np.maximum(0.0, variance))
    return deviation
