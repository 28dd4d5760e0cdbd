"""Modules under what others wrap around them: a compiler, adapters, a trainer.

torch.compile, peft and DistributedDataParallel put modules of their own around others. Statistics
are collected from what a model computes with, and masks are applied to it, so these are looked
through.
"""

from torch import nn

_COMPILED = "_orig_mod"
"""What `torch.compile` calls the module that it wraps."""
_ADAPTED = "base_layer"
"""What peft calls the layer that it wraps; its own weights are beside it."""
_ROOTS = {
    "OptimizedModule": _COMPILED,
    "PeftModel": "base_model",
    "BaseTuner": "model",
    "DistributedDataParallel": "module",
}
"""Classes that wrap a whole component, and what they call it."""


def unwrapped(module: nn.Module) -> nn.Module:
    """The component itself, which compilers, adapters and trainers may have wrapped."""
    while True:
        kinds = (_ROOTS.get(kind.__name__) for kind in type(module).__mro__)
        inner = next((module._modules[name] for name in kinds if name in module._modules), None)
        if inner is None:
            return module
        module = inner


def modules_of(component: nn.Module) -> dict[str, nn.Module]:
    """The modules of a component by the names that they have without wrappers.

    Of a wrapped layer it is the layer itself; what an adapter adds is left out.
    """
    found: dict[str, nn.Module] = {}
    adapted: set[str] = set()
    # Parents come before their children, and a wrapper before what it wraps.
    for name, module in unwrapped(component).named_modules():
        parent, _, last = name.rpartition(".")
        if _ADAPTED in module._modules or (parent in adapted and last != _ADAPTED):
            adapted.add(name)
            continue
        bare = ".".join(part for part in name.split(".") if part not in (_COMPILED, _ADAPTED))
        found[bare] = module
    return found


def compiled_inside(component: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    """The wrappers that `torch.compile` left inside a component: (parent, name there, wrapper)."""
    return [
        (parent, name, child)
        for parent in unwrapped(component).modules()
        for name, child in parent._modules.items()
        if child is not None and unwrapped(child) is not child
    ]
