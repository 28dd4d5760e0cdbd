"""The weights of a live model, wherever they are.

accelerate's offload leaves a module without its weights and keeps these in a hook. Masks are
applied to what the model computes with, so hooks are looked into.
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from conceptprune.errors import UserError


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
