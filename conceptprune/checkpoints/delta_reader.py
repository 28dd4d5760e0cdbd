"""The only, strict reader of deltas: safetensors files of edited tensors, ours or other tools'."""

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from conceptprune.checkpoints.delta_header import NOT_ONE, DeltaHeader, begun_header, one_line
from conceptprune.errors import UserError

MOST_BYTES = 1 << 36
"""Limit for a file: more than all of FLUX.1's weights."""
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def read_delta(data: bytes) -> tuple[DeltaHeader | None, dict[str, Tensor]]:
    """A delta's metadata, and its tensors by name.

    Raises:
        UserError: the file is invalid; says in one line what is wrong.
    """
    header = begun_header(data)
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(data)
    # For an invalid header, the library raises errors of many kinds.
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as e:
        raise UserError(f"{NOT_ONE}: {one_line(e)}") from e
    if not tensors:
        raise UserError("a safetensors file without a tensor edits nothing")
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UserError(f"{name!r:.200} is of {kind}, and weights are of floats")
        if not tensor.isfinite().all():
            raise UserError(f"{name!r:.200} has a NaN or an infinity: every image would be black")
    return header, tensors
