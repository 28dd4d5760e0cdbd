"""Second moments of a linear's inputs: additive over shards, and all that a closed-form edit needs.

D is the width of the inputs: at cross-attention's keys and values, that of the encoded prompt.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Of inputs x for which a linear should keep its outputs."""

    gram: Tensor
    """Sum of x x^T: [D, D] float64."""
    rows: int
    """How many x."""

    @classmethod
    def of(cls, inputs: Tensor) -> "Moments":
        """Of inputs [..., D]."""
        rows = inputs.reshape(-1, inputs.shape[-1]).double()
        return cls(gram=rows.T @ rows, rows=len(rows))

    def merge(self, other: "Moments") -> "Moments":
        """Of both sets of inputs."""
        return Moments(gram=self.gram + other.gram, rows=self.rows + other.rows)

    @property
    def mean(self) -> Tensor:
        """The mean of x x^T."""
        return self.gram / self.rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """Of inputs x for which a linear should give the outputs that it gives for others, p."""

    gram: Tensor
    """Sum of x x^T: [D, D] float64."""
    cross: Tensor
    """Sum of p x^T: [D, D] float64."""
    rows: int
    """How many pairs."""

    @classmethod
    def of(cls, inputs: Tensor, wanted: Tensor) -> "Shift":
        """Of pairs of rows of `inputs` and `wanted`, [..., D] each.

        Raises:
            ValueError: their shapes differ.
        """
        if inputs.shape != wanted.shape:
            raise ValueError(f"inputs {list(inputs.shape)} with {list(wanted.shape)}")
        rows = inputs.reshape(-1, inputs.shape[-1]).double()
        other = wanted.reshape(-1, wanted.shape[-1]).double()
        return cls(gram=rows.T @ rows, cross=other.T @ rows, rows=len(rows))

    def merge(self, other: "Shift") -> "Shift":
        """Of both sets of pairs."""
        return Shift(
            gram=self.gram + other.gram,
            cross=self.cross + other.cross,
            rows=self.rows + other.rows,
        )


def merged(moments: Iterable[Moments]) -> Moments:
    """Of all sets of inputs, added in the given order, which decides the last bits."""
    return reduce(Moments.merge, moments)


def shift_map(
    erased: Shift, kept: Sequence[tuple[float, Moments]], *, ridge: float = 1e-7
) -> Tensor:
    """M [D, D] float64, by which a weight [R, D] is multiplied from the right.

    It minimises, whatever the weight,

        mean over erased pairs |M x - p|^2 + sum over `kept` of strength * mean |M x - x|^2
        + ridge * (mean diagonal of what is inverted) * |M - I|^2

    which is UCE's equation (Gandikota et al., WACV 2024, arXiv 2308.14761, equation 7) with means
    in place of sums, so that strengths do not depend on how many prompts there are. A small ridge
    makes the equations solvable where no input has been; a larger one also keeps the edit small.

    Raises:
        ValueError: a strength or the ridge is negative.
    """
    if ridge < 0 or any(strength < 0 for strength, _ in kept):
        raise ValueError("strengths and the ridge are at least 0")
    gram, wanted = erased.gram / erased.rows, erased.cross / erased.rows
    for strength, moments in kept:
        gram = gram + strength * moments.mean
        wanted = wanted + strength * moments.mean
    extra = ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    # M A = B is A^T M^T = B^T, and A is symmetric.
    solution: Tensor = torch.linalg.solve(gram + extra, (wanted + extra).T).T
    return solution
