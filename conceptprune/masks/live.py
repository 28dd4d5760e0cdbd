"""The weights of a live model wherever they are, and one thread at a time that changes them.

accelerate's offload leaves a module without its weights and keeps these in a hook. Masks are
applied to what the model computes with, so hooks are looked into.
"""

import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from conceptprune.errors import UserError
from conceptprune.models.wrappers import unwrapped

_locks: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()
_locks_guard = threading.Lock()


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
