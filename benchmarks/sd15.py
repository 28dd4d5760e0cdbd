"""Stand-ins with the real shapes of SD 1.5's ffn_out site: random weights and statistics."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from conceptprune.collection.statistics import LayerStatistics, Statistics
from conceptprune.masks.selectors import Evidence

SHAPES = {
    f"{block}.attentions.{index}.transformer_blocks.0.ff.net.2": (channels, 4 * channels)
    for block, channels, num in (
        ("down_blocks.0", 320, 2),
        ("down_blocks.1", 640, 2),
        ("down_blocks.2", 1280, 2),
        ("mid_block", 1280, 1),
        ("up_blocks.1", 1280, 3),
        ("up_blocks.2", 640, 3),
        ("up_blocks.3", 320, 3),
    )
    for index in range(num)
}
"""Layer name -> (rows, columns): 16 layers, 49.6 million weights."""


def make_weights(seed: int = 0, *, num_layers: int = len(SHAPES)) -> dict[str, Tensor]:
    """Normal weights in float16, SD 1.5's own type."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (torch.randn(shape, generator=generator) / shape[1] ** 0.5).half()
        for name, shape in list(SHAPES.items())[:num_layers]
    }


def make_evidence(*, num_calls: int, num_layers: int = len(SHAPES), seed: int = 0) -> Evidence:
    """Log-normal energies: neurons differ by orders of magnitude, calls and sides by little."""
    generator = np.random.default_rng(seed)
    base, target = {}, {}
    for name, (_, columns) in list(SHAPES.items())[:num_layers]:
        neuron = generator.normal(0, 1.5, columns)
        calls = generator.normal(0, 0.3, (num_calls, columns))
        concept = generator.normal(0, 0.2, columns)
        base[name] = np.exp(neuron + calls)
        target[name] = np.exp(neuron + calls + concept)
    return Evidence(target=_statistics(target), base=_statistics(base))


def _statistics(energy: dict[str, NDArray[np.float64]]) -> Statistics:
    """Statistics as if of one prompt."""
    layers = {
        name: LayerStatistics(sum_sq=sums, sum_norm=np.sqrt(sums), num_rows=1)
        for name, sums in energy.items()
    }
    num_calls = len(next(iter(energy.values())))
    timesteps = tuple(map(float, range(num_calls)))
    return Statistics(first_call=0, timesteps=timesteps, num_prompts=1, layers=layers)


class Site(nn.Module):
    """A module with nothing but the site's linears, under their names."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        for name, weight in weights.items():
            *parents, last = name.split(".")
            module: nn.Module = self
            for parent in parents:
                if parent not in dict(module.named_children()):
                    module.add_module(parent, nn.Module())
                module = module.get_submodule(parent)
            rows, columns = weight.shape
            linear = nn.Linear(columns, rows, bias=False, device="meta")
            linear.weight = nn.Parameter(weight, requires_grad=False)
            module.add_module(last, linear)
