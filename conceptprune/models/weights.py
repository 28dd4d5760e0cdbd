"""Read single weights of a model folder, memory-mapped, and compute their digests."""

import hashlib
import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from conceptprune.errors import UserError
from conceptprune.models.sites import join_layer, split_layer
from conceptprune.strict_reading import read_regular

MOST_INDEX_BYTES = 2**26
"""Limit for an index of shards: a line for each of a million tensors."""
CHECKPOINT_NAMES = ("diffusion_pytorch_model", "model")
"""Stems of the files that diffusers and transformers load when no variant is asked for."""
PICKLED = {".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".h5"}
"""Suffixes of checkpoints that are not read: opening one of them can run code."""


TEXT_MODEL = "text_model."
"""Prefix of names in CLIP text encoders; some versions of transformers write it, others do not."""

_PRECISIONS = (torch.float8_e5m2, torch.float8_e4m3fn, torch.bfloat16, torch.float16)
"""Coarsest first."""


def weight_digest(weight: Tensor) -> str:
    """SHA-256 of a weight's shape and its values in float16.

    float16, so that a model has the same digest whether it was loaded in float32 or float16.
    """
    data = weight.detach().to("cpu", torch.float16).contiguous()
    digest = hashlib.sha256(json.dumps(list(data.shape)).encode())
    digest.update(data.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def rounded_digests(weight: Tensor) -> tuple[str, str]:
    """`weight_digest` of a weight loaded in bfloat16, and of one that was float16 before that."""
    half = weight.detach().to("cpu", torch.float16)
    return weight_digest(weight.detach().to("cpu", torch.bfloat16)), weight_digest(half.bfloat16())


def precision_of(weight: Tensor) -> torch.dtype:
    """The coarsest floating-point type that holds all of a weight's values as they are."""
    values = weight.detach().cpu().float().nan_to_num()
    for dtype in _PRECISIONS:
        if torch.equal(values.to(dtype).float().nan_to_num(), values):
            return dtype
    return torch.float32


def known_as(name: str, names: Collection[str]) -> str | None:
    """How `name` is spelled among `names`: as it is, or with or without the prefix `text_model.`.

    None if it is not among them.
    """
    bare = name.removeprefix(TEXT_MODEL)
    return next((form for form in (name, bare, TEXT_MODEL + bare) if form in names), None)


def component_of(pipe: object, component: str) -> nn.Module:
    """The pipeline's module named `component` ("unet"), or `pipe` itself if it is a module.

    Raises:
        UserError: the pipeline has no such module.
    """
    if isinstance(pipe, nn.Module):
        return pipe
    module = getattr(pipe, component, None)
    if not isinstance(module, nn.Module):
        raise UserError(f"{type(pipe).__name__} has no component {component!r}")
    return module


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The safetensors files of a component that are loaded."""

    files: tuple[Path, ...]
    index: Path | None
    """The file that says which tensor is in which file, if there are several."""
    variant: str | None
    """The variant to ask `from_pretrained` for ("fp16"); None for files without one."""

    @property
    def title(self) -> Path:
        """Its name in messages: the file, or the index of several files."""
        return self.index or self.files[0]


def find_checkpoint(component_folder: Path) -> Checkpoint:
    """The checkpoint of a component, single or sharded; a variant only if there is no plain one.

    Raises:
        UserError: there is no checkpoint, there are several variants, or the index is invalid or
        names a missing file.
    """
    for stem in CHECKPOINT_NAMES:
        index = component_folder / f"{stem}.safetensors.index.json"
        if index.is_file():
            return _sharded(index, None)
        single = component_folder / f"{stem}.safetensors"
        if single.is_file():
            return Checkpoint(files=(single,), index=None, variant=None)
    variants = {}
    for stem in CHECKPOINT_NAMES:
        for path in sorted(component_folder.glob(f"{stem}.safetensors.index.*.json")):
            variants[path.name.split(".")[-2]] = path
        for path in sorted(component_folder.glob(f"{stem}.*.safetensors")):
            variant = path.name.removeprefix(f"{stem}.").removesuffix(".safetensors")
            # A name with a hyphen is one of several shards, which an index lists.
            if "." not in variant and "-" not in variant:
                variants[variant] = path
    if len(variants) > 1:
        raise UserError(
            f"{component_folder}: several variants and no plain checkpoint "
            f"({', '.join(path.name for path in variants.values())}); rename the files of the one "
            f"to use to the name without .{min(variants)}"
        )
    for variant, path in variants.items():
        if path.suffix == ".json":
            return _sharded(path, variant)
        return Checkpoint(files=(path,), index=None, variant=variant)
    names = " and ".join(f"{stem}.safetensors" for stem in CHECKPOINT_NAMES)
    pickled = sorted(path.name for path in component_folder.glob("*") if path.suffix in PICKLED)
    reason = (
        f"; pickled checkpoints ({pickled[0]}) are not read: convert the model first"
        if pickled
        else "; was the model copied whole?"
    )
    raise UserError(
        f"{component_folder}: no safetensors checkpoint here (looked for {names}){reason}"
    )


def _sharded(index: Path, variant: str | None) -> Checkpoint:
    try:
        content = json.loads(read_regular(index, MOST_INDEX_BYTES))
        names = sorted(set(content["weight_map"].values()))
        files = tuple(index.parent / Path(name).name for name in names)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{index}: not a checkpoint index ({error!r})") from error
    for file in files:
        if not file.is_file():
            raise UserError(f"{index} names {file.name}, which is not there: copy all the shards")
    if not files:
        raise UserError(f"{index} names no file")
    return Checkpoint(files=files, index=index, variant=variant)


def checkpoint_files(component_folder: Path) -> list[Path]:
    """The component's safetensors files; see `find_checkpoint`.

    Raises:
        UserError: as `find_checkpoint`.
    """
    return list(find_checkpoint(component_folder).files)


def read_layers(
    model_folder: Path, layers: Iterable[str], denoiser: str, dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """The weights [R, W] of layers (see `sites`) in any components, by layer, in the given order.

    Raises:
        UserError: as `read_weights`.
    """
    layers = list(layers)
    by_component: dict[str, list[str]] = {}
    for layer in layers:
        component, module = split_layer(layer, denoiser)
        by_component.setdefault(component, []).append(module)
    found = {
        join_layer(component, module, denoiser): weight
        for component, modules in by_component.items()
        for module, weight in read_weights(model_folder / component, modules, dtype).items()
    }
    return {layer: found[layer] for layer in layers}


def read_weights(
    component_folder: Path, names: Iterable[str], dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """The `.weight` tensors [R, W] of the named modules, in `dtype`, or as stored in the files.

    Raises:
        UserError: a tensor is in none of the folder's safetensors files, or one of these files
            cannot be read.
    """
    by_key = {f"{name}.weight": name for name in names}
    found = read_tensors(component_folder, by_key)
    return {
        by_key[key]: tensor if dtype is None else tensor.to(dtype) for key, tensor in found.items()
    }


def read_tensors(component_folder: Path, names: Iterable[str] | None = None) -> dict[str, Tensor]:
    """The tensors with these parameter names, or all tensors, as stored in the files.

    A text encoder's names are found with and without the prefix `text_model.` (see `known_as`).

    Raises:
        UserError: a tensor is in none of the folder's safetensors files.
    """
    wanted = None if names is None else set(names)
    found: dict[str, Tensor] = {}
    for path in checkpoint_files(component_folder):
        try:
            with safe_open(path, framework="pt") as stream:
                keys = set(stream.keys())
                here = {name: known_as(name, keys) for name in (keys if wanted is None else wanted)}
                for name, key in here.items():
                    if key is not None:
                        found[name] = stream.get_tensor(key)
        except (SafetensorError, OSError, ValueError, RuntimeError) as error:
            raise UserError(
                f"{path}: cannot be read as safetensors ({error}); copy or fetch it again"
            ) from error
    missing = sorted((wanted or set()) - found.keys())
    if missing:
        raise UserError(f"{component_folder}: no tensor {missing[0]} in its safetensors files")
    return found
