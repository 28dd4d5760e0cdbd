"""The linears of a live model: under whatever wraps them, wherever their weights are.

torch.compile, peft and DistributedDataParallel put modules of their own around others; accelerate's
offload leaves a module without its weights and keeps these in a hook. Masks are applied to what the
model computes with, so all of these are looked through.
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
"""Classes that wrap a whole component, and what they call it."""

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

    Of a wrapped linear it is the linear itself.
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
        UserError: it is offloaded to a disk, or is nowhere.
    """
    weight = linear.weight.detach()
    if not weight.is_meta:
        return weight
    for hook in _hooks(linear):
        weights = getattr(hook, "weights_map", None) or {}
        kept: Tensor | None = weights.get("weight")
        # A dictionary gives the same memory each time, an offload to a disk a fresh copy.
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
    """One thread at a time works on these models; the same thread may enter again."""
    # All threads take several locks in one order, so that no two wait for each other.
    owners = sorted({unwrapped(module) for module in modules}, key=id)
    with _locks_guard:
        locks = [_locks.setdefault(owner, threading.RLock()) for owner in owners]
    with ExitStack() as held:
        for lock in locks:
            held.enter_context(lock)
        yield
