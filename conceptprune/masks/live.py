"""The weights of a live model, wherever they are.

accelerate's offload leaves a module without its weights and keeps these in a hook. Masks are
applied to what the model computes with, so hooks are looked into.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor, nn

from conceptprune.errors import UserError
from conceptprune.models.weights import read_weights
from conceptprune.models.wrappers import unwrapped


def live_weight(linear: nn.Linear, name: str) -> Tensor:
    """The weight [R, W] that a linear computes with, not a copy; `name` is for the message.

    Raises:
        UserError: it is offloaded to disk, or on the meta device.
    """
    weight = linear.weight.detach()
    if not weight.is_meta:
        return weight
    for hook in _hooks(linear):
        weights = getattr(hook, "weights_map", None) or {}
        kept: Tensor | None = weights.get("weight")
        # A dictionary returns the same memory each time; an offload to disk returns a fresh copy.
        if kept is not None and kept.data_ptr() == weights["weight"].data_ptr() != 0:
            return kept.detach()
    raise UserError(
        f"{name}: its weights are not in memory (on torch's meta device, or offloaded to a disk): "
        "apply and remove masks before enabling the offload, or offload to the CPU"
    )


def _hooks(module: nn.Module) -> Iterator[Any]:
    hook = getattr(module, "_hf_hook", None)
    yield from getattr(hook, "hooks", (hook,))


def folder_of(module: nn.Module, component: str) -> Path | None:
    """The folder of a component's files, where it was loaded from one that is still here."""
    origin = getattr(getattr(unwrapped(module), "config", None), "_name_or_path", None)
    if not origin or not isinstance(origin, str):
        return None
    # Loaded by its pipeline, or with `subfolder`.
    folders = (Path(origin), Path(origin, component))
    return next((folder for folder in folders if (folder / "config.json").is_file()), None)


def stored_weight(folder: Path | None, module: str) -> Tensor | None:
    """The weight [R, W] of a linear as a component's files have it, where they can be read."""
    if folder is None:
        return None
    try:
        (weight,) = read_weights(folder, [module]).values()
    except (UserError, OSError, SafetensorError):
        return None
    return weight
