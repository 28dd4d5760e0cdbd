"""Checkpoints of ESD (Gandikota et al., "Erasing Concepts from Diffusion Models", ICCV 2023).

The authors' repository, rohitgandikota/erasing, writes safetensors of the trained parameters under
diffusers' names (`esd_sd.py`, `esd_sdxl.py`); its earlier `esd_diffusers.py` a pickled `.pt`: a
dictionary of state dictionaries by module name, "unet." before it. State dictionaries of a whole
UNet were published too. All are read here; those with CompVis's names ("model.diffusion_model.")
are refused.

A `.pt` is a pickle. It is opened with `torch.load(weights_only=True)` alone, which builds tensors
and plain containers and refuses whatever else a pickle can ask for, such as running code. (torch
2.6, the lowest version that is allowed, is the first of which that is true: CVE-2025-32434.) What
comes out is checked like a delta: dense tensors of floats, no larger than the file.
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from conceptprune.checkpoints.delta_reader import DTYPES, MOST_BYTES, read_delta
from conceptprune.errors import UserError
from conceptprune.strict_reading import open_regular

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
    if not path.exists():
        raise UserError(f"{path}: there is no such file")
    if path.suffix not in (".safetensors", *PICKLED):
        raise UserError(f"{path}: must be .safetensors, or one of {', '.join(PICKLED)} by ESD")
    try:
        with open_regular(path, MOST_BYTES) as stream:
            if path.suffix == ".safetensors":
                return read_delta(stream.read())[1]
            _check_packing(stream)
            return torch.load(stream, map_location="cpu", weights_only=True)
    # Of a file that somebody has made up, torch raises errors of every kind.
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{path}: not a file of tensors alone, so not read: {reason:.200}"
        ) from error


def _check_packing(stream: BinaryIO) -> None:
    """Refuse an archive that unpacks to more than it has; torch itself packs nothing.

    Raises:
        ValueError: it does.
    """
    if zipfile.is_zipfile(stream):
        with zipfile.ZipFile(stream) as archive:
            for entry in archive.infolist():
                if entry.compress_type != zipfile.ZIP_STORED:
                    raise ValueError(f"{entry.filename!r} in it is compressed")
    stream.seek(0)


def _flat(content: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: holds a {type(content).__name__}, not tensors by name")
    found: dict[str, Tensor] = {}
    for name, value in content.items():
        inner = value if isinstance(value, Mapping) else None
        entries = {f"{name}.{key}": item for key, item in inner.items()} if inner else {name: value}
        for key, item in entries.items():
            if not isinstance(key, str) or not isinstance(item, Tensor):
                raise UserError(f"{path}: {key!r:.200} is a {type(item).__name__}, not a tensor")
            if fault := _fault(item):
                raise UserError(f"{path}: {key!r:.200} {fault}")
            if found.setdefault(key, item) is not item:
                raise UserError(f"{path}: {key!r:.200} is there twice")
    return found


def _fault(tensor: Tensor) -> str:
    """What keeps a tensor from being a weight; nothing that it claims to be is computed with."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu":
        return f"is {tensor.layout} on {tensor.device.type}, not dense numbers"
    if tensor.dtype not in DTYPES:
        return f"is of {str(tensor.dtype).removeprefix('torch.')}, and weights are of floats"
    # A view may claim any shape of a few bytes, by steps of 0.
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return f"says that it is {tuple(tensor.shape)!s:.60}, and has fewer bytes"
    return ""
