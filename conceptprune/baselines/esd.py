"""Checkpoints of ESD (Gandikota et al., "Erasing Concepts from Diffusion Models", ICCV 2023).

The authors' repository, rohitgandikota/erasing, writes safetensors of the trained parameters under
diffusers' names (`esd_sd.py`, `esd_sdxl.py`); its earlier `esd_diffusers.py` a pickled `.pt`: a
dictionary of state dictionaries by module name, "unet." before it. State dictionaries of a whole
UNet were published too. All are read here; those with CompVis's names ("model.diffusion_model.")
are refused.

A `.pt` is a pickle. It is opened with `torch.load(weights_only=True)` alone, which builds tensors
and plain containers and refuses whatever else a pickle can ask for, such as running code.
"""

import pickle  # noqa: TID251 - for the name of its error
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor

from conceptprune.errors import UserError

PICKLED = (".pt", ".pth", ".bin")
COMPVIS = "model.diffusion_model."


def read_esd(path: Path, component: str) -> dict[str, Tensor]:
    """The parameters that a checkpoint brings for the denoiser `component`, by parameter name.

    Raises:
        UserError: the file is missing, is none of these forms, or holds more than tensors.
    """
    found = _flat(_load(path), path)
    prefix = f"{component}."
    return {name.removeprefix(prefix): tensor for name, tensor in sorted(found.items())}


def changed(
    checkpoint: Mapping[str, Tensor], base: Mapping[str, Tensor], path: Path
) -> dict[str, Tensor]:
    """Those tensors that differ from the base model's, in its dtypes.

    Raises:
        UserError: a tensor that the base does not have, of another shape, or not finite; or none
            that differs.
    """
    edited = {}
    for name, tensor in checkpoint.items():
        if name not in base:
            hint = " (CompVis's names: convert it first)" if name.startswith(COMPVIS) else ""
            raise UserError(f"{path}: the model has no parameter {name!r}{hint}")
        if tensor.shape != base[name].shape:
            raise UserError(
                f"{path}: {name} is {tuple(tensor.shape)}, and {tuple(base[name].shape)} in the "
                "model: it was made for another one"
            )
        if not torch.isfinite(tensor).all():
            raise UserError(f"{path}: {name} has entries that are not finite numbers")
        cast = tensor.to(base[name].dtype)
        if not torch.equal(cast, base[name]):
            edited[name] = cast.contiguous()
    if not edited:
        raise UserError(f"{path}: every tensor is the base model's, so nothing was erased")
    return edited


def _load(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix in PICKLED:
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, safetensors.SafetensorError, RuntimeError, EOFError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: not a file of tensors alone, so not read: {reason}") from error
    raise UserError(f"{path}: must be .safetensors, or one of {', '.join(PICKLED)} by ESD")


def _flat(content: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: holds a {type(content).__name__}, not tensors by name")
    found: dict[str, Tensor] = {}
    for name, value in content.items():
        inner = value if isinstance(value, Mapping) else None
        entries = {f"{name}.{key}": item for key, item in inner.items()} if inner else {name: value}
        for key, item in entries.items():
            if not isinstance(key, str) or not isinstance(item, Tensor):
                raise UserError(f"{path}: {key!r} is a {type(item).__name__}, not a tensor")
            found[key] = item
    return found
