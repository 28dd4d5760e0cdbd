"""Borrow a pipeline that the caller has loaded, and give it back unchanged."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from conceptprune.errors import UserError
from conceptprune.models.base import DiffusionModel
from conceptprune.models.families import FAMILIES
from conceptprune.models.lock import exclusively
from conceptprune.models.other import OtherPipeline
from conceptprune.models.wrappers import compiled_inside, unwrapped


@contextmanager
def borrowed(pipe: Any, *, resolution: int | None = None) -> Iterator[DiffusionModel]:
    """Wrap `pipe` as a model of its family; a `DiffusionModel` is passed through.

    Other threads that borrow it or change its masks wait. On exit, the pipeline's components,
    attributes, scheduler state and training modes are restored, and with `enable_model_cpu_offload`
    its modules are back on the host. `resolution` is the side of the images in pixels; by default,
    the model's own.

    Raises:
        UserError: `pipe` is not a diffusers text-to-image pipeline, or is in use.
    """
    if isinstance(pipe, DiffusionModel):
        yield pipe
        return
    family = family_of_pipeline(pipe)
    with exclusively(pipe), _lent(pipe):
        yield family(pipe, resolution=resolution)


@contextmanager
def _lent(pipe: Any) -> Iterator[None]:
    """Inside the context, nothing of `pipe` is wrapped, and its scheduler is a copy."""
    attributes = dict(vars(pipe))
    parts = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    modules = {module: None for part in parts.values() for module in part.modules()}
    # Only of these: setting an attribute of a thousand modules takes as long as a denoiser call.
    training = [module for module in modules if module.training]
    compiled = [
        (module, call) for module in modules if (call := module._compiled_call_impl) is not None
    ]
    inside = [wrapper for part in parts.values() for wrapper in compiled_inside(part)]
    try:
        # Use a copy of the scheduler: a pipeline that runs as a whole changes its own.
        vars(pipe)["scheduler"] = type(pipe.scheduler).from_config(pipe.scheduler.config)
        # Hooks that are added to a compiled module are not called.
        for name, part in parts.items():
            vars(pipe)[name] = unwrapped(part)
        for parent, name, wrapper in inside:
            parent._modules[name] = unwrapped(wrapper)
        for module, _ in compiled:
            module._compiled_call_impl = None
        yield
    finally:
        vars(pipe).clear()
        vars(pipe).update(attributes)
        for parent, name, wrapper in inside:
            parent._modules[name] = wrapper
        for module, call in compiled:
            module._compiled_call_impl = call
        # A borrower only ever switches training off.
        for module in training:
            module.training = True
        pipe.maybe_free_model_hooks()


def family_of_pipeline(pipe: Any) -> type[DiffusionModel]:
    """The family of a diffusers pipeline; a subclass belongs to its base class's family.

    Raises:
        UserError: it is not a pipeline.
    """
    from diffusers import DiffusionPipeline

    if not isinstance(pipe, DiffusionPipeline):
        raise UserError(
            f"a diffusers pipeline is needed, such as DiffusionPipeline.from_pretrained(...) "
            f"gives, and this is a {type(pipe).__name__}"
        )
    names = (cls.__name__ for cls in type(pipe).__mro__)
    return next((FAMILIES[name] for name in names if name in FAMILIES), OtherPipeline)
