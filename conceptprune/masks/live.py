"""Find a live model's linear layers under any wrappers, and their weights wherever they are.

torch.compile, peft and DistributedDataParallel wrap modules in their own; accelerate's offload
moves a module's weights into a hook. Masks must be applied to the weights that the model computes
with, so all of these are unwrapped.
"""

import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from conceptprune.errors import UserError

_WRAPPERS = ("_orig_mod", "base_layer")
"""What `torch.compile` and peft call the module that they wrap."""
_ROOTS = {
    "OptimizedModule": "_orig_mod",
    "PeftModel": "base_model",
    "BaseTuner": "model",
    "DistributedDataParallel": "module",
}
"""Classes that wrap a whole component, and the attribute that holds it."""

_locks: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()
_locks_guard = threading.Lock()


def unwrapped(module: nn.Module) -> nn.Module:
    """The component itself, which compilers, adapters and trainers may have wrapped."""
    while True:
        kinds = (_ROOTS.get(kind.__name__) for kind in type(module).__mro__)
        inner = next((module._modules[name] for name in kinds if name in module._modules), None)
        if inner is None:
            return module
        module = inner


def linears_of(component: nn.Module) -> dict[str, nn.Module]:
    """The modules of a component by the names they have without wrappers.

    For a wrapped linear, this is the linear itself.
    """
    found: dict[str, nn.Module] = {}
    for name, module in unwrapped(component).named_modules():
        bare = ".".join(part for part in name.split(".") if part not in _WRAPPERS)
        if isinstance(module, nn.Linear) or bare not in found:
            found[bare] = module
    return found


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


@contextmanager
def locked(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Let one thread at a time work on these models; the same thread may enter again."""
    # All threads take several locks in the same order, so that there is no deadlock.
    owners = sorted({unwrapped(module) for module in modules}, key=id)
    with _locks_guard:
        locks = [_locks.setdefault(owner, threading.RLock()) for owner in owners]
    with ExitStack() as held:
        for lock in locks:
            held.enter_context(lock)
        yield
