"""LayerMask: which entries of one linear a mask prunes, and the weight that it was made for."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from conceptprune.models.weights import rounded_digests, weight_digest


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerMask:
    """The pruned entries of one linear."""

    shape: tuple[int, int]
    """(rows, columns) of the weight."""
    entries: NDArray[np.int64]
    """Sorted flat indices `row * columns + column` of the entries that become zero."""
    weight_digest: str
    """`weights.weight_digest` of the weight the mask was made for, as stored on disk."""
    rounded_digests: tuple[str, ...] = ()
    """`weights.rounded_digests` of that weight; older masks have none."""
    first_column: int = 0
    """The site's first column; the columns before it have other inputs."""

    @classmethod
    def of(cls, weight: Tensor, entries: NDArray[np.int64], first_column: int = 0) -> "LayerMask":
        """The mask of a weight [rows, columns] as stored in the model's files."""
        return cls(
            shape=(weight.shape[0], weight.shape[1]),
            entries=entries,
            weight_digest=weight_digest(weight),
            rounded_digests=rounded_digests(weight),
            first_column=first_column,
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LayerMask):
            return NotImplemented
        return self.header == other.header and np.array_equal(self.entries, other.entries)

    def __hash__(self) -> int:
        return hash((self.shape, self.weight_digest, len(self.entries)))

    def __repr__(self) -> str:
        rows, columns = self.shape
        return f"<LayerMask: {len(self.entries):,} weights of {rows} x {columns}>"

    def fits(self, weight: Tensor) -> bool:
        """Whether a weight is the one the mask was made for, in any floating-point type.

        It is if one is the other rounded: the weight's digest equals that of the files' values, or
        of these in float16 or bfloat16; or the weight rounded to bfloat16 has the files' digest.
        """
        found = weight_digest(weight)
        if found in (self.weight_digest, *self.rounded_digests):
            return True
        return weight_digest(weight.detach().to(torch.bfloat16)) == self.weight_digest

    def fits_file(self, weight: Tensor, file: Tensor) -> bool:
        """Whether the mask was made for a model file's weight [R, W], and `weight` is that one.

        Either may have been rounded, as the file tells what it is then.
        """
        known = LayerMask.of(file, self.entries)
        return known.same_weight(self) and known.fits(weight)

    def same_weight(self, other: "LayerMask") -> bool:
        """Whether two masks were made for the same weight, maybe in different dtypes."""
        mine = {self.weight_digest, *self.rounded_digests}
        return other.weight_digest in mine or self.weight_digest in other.rounded_digests

    @property
    def num_weights(self) -> int:
        """How many of the linear's weights belong to the site."""
        rows, columns = self.shape
        return rows * (columns - self.first_column)

    def pruned(self, weight: Tensor) -> Tensor:
        """A copy of the weight [rows, columns] with the entries set to zero."""
        copy = weight.clone()
        copy.view(-1)[self.entries] = 0
        return copy

    @property
    def header(self) -> dict[str, Any]:
        """What the mask file says about it, besides its entries."""
        optional = {"rounded_digests": self.rounded_digests, "first_column": self.first_column}
        return {
            "shape": self.shape,
            "weight_digest": self.weight_digest,
            **{name: value for name, value in optional.items() if value},
        }


def widened(entries: NDArray[np.int64], columns: int, first_column: int) -> NDArray[np.int64]:
    """Convert flat indices into the site's columns to indices into all `columns`."""
    if not first_column:
        return entries
    rows, column = np.divmod(entries, columns - first_column)
    return rows * columns + column + first_column


def narrowed(entries: NDArray[np.int64], columns: int, first_column: int) -> NDArray[np.int64]:
    """The inverse of `widened`."""
    if not first_column:
        return entries
    rows, column = np.divmod(entries, columns)
    return rows * (columns - first_column) + column - first_column
