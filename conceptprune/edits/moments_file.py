"""The files of second moments: safetensors, read strictly.

One metadata key, "conceptprune", has JSON: the format, the number of rows, and the key of the unit.
"""

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from conceptprune.digest import canonical_json
from conceptprune.edits.formats import SUMS_FORMAT
from conceptprune.edits.moments import Moments, Shift
from conceptprune.errors import UserError
from conceptprune.strict_reading import plain_json

METADATA_KEY = "conceptprune"


def moments_bytes(moments: Moments | Shift, unit: str) -> bytes:
    """The file of the unit with this key; the same bytes for the same numbers."""
    tensors = {"gram": moments.gram}
    if isinstance(moments, Shift):
        tensors["cross"] = moments.cross
    header = canonical_json({"format": SUMS_FORMAT, "rows": moments.rows, "unit": unit})
    return safetensors.torch.save(tensors, {METADATA_KEY: header})


def read_moments(data: bytes) -> tuple[Moments, str | None]:
    """The inverse of `moments_bytes`; files of earlier versions do not say of which unit they are.

    Raises:
        UserError: not such a file of a `Moments`.
    """
    tensors, rows, unit = _read(data, {"gram"})
    return Moments(gram=tensors["gram"], rows=rows), unit


def read_shift(data: bytes) -> tuple[Shift, str | None]:
    """The inverse of `moments_bytes`; files of earlier versions do not say of which unit they are.

    Raises:
        UserError: not such a file of a `Shift`.
    """
    tensors, rows, unit = _read(data, {"gram", "cross"})
    return Shift(gram=tensors["gram"], cross=tensors["cross"], rows=rows), unit


def _read(data: bytes, names: set[str]) -> tuple[dict[str, Tensor], int, str | None]:
    try:
        size = int.from_bytes(data[:8], "little")
        header = plain_json(plain_json(data[8 : 8 + size])["__metadata__"][METADATA_KEY])
        tensors = safetensors.torch.load(data)
        rows = header["rows"]
        unit = header.pop("unit", None)
        sound = header == {"format": SUMS_FORMAT, "rows": rows} and type(rows) is int and rows > 0
        sound = sound and isinstance(unit, str | None)
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as e:
        raise UserError(f"not a file of second moments: {e!s:.200}") from e
    if not sound or tensors.keys() != names or len({t.shape for t in tensors.values()}) != 1:
        raise UserError(
            f"not a file of second moments of format {SUMS_FORMAT} with {sorted(names)}"
        )
    for name, tensor in tensors.items():
        square = tensor.ndim == 2 and tensor.shape[0] == tensor.shape[1] > 0
        if tensor.dtype != torch.float64 or not square or not tensor.isfinite().all():
            raise UserError(f"second moments: {name} must be a finite square of float64")
    return tensors, rows, unit
