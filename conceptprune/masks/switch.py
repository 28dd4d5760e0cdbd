"""Switch masks of a live model on and off: all checks first, then all changes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from conceptprune.errors import ModelMismatchError, UserError
from conceptprune.masks.apply import (
    applied_masks,
    are_zero,
    fused_masks,
    original_weight,
    restore_entries,
    set_fused,
    taken_entries,
    what_was_written,
    zero_entries,
)
from conceptprune.masks.live import folder_of, live_weight, stored_weight
from conceptprune.models.lock import writing
from conceptprune.models.sites import split_layer
from conceptprune.models.weights import component_of, known_as, precision_of
from conceptprune.models.wrappers import modules_of

if TYPE_CHECKING:
    from conceptprune.masks.mask import PruningMask


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A layer of a mask in a live model."""

    linear: nn.Linear
    weight: Tensor
    """[R, W], the memory that the model computes with."""
    module: str
    """The linear's name in its component, as the mask has it."""
    folder: Path | None
    """Of the component's files."""


def places(pipe: Any, mask: "PruningMask") -> dict[str, Place]:
    """Find a mask's layers in `pipe`, by layer.

    Raises:
        ModelMismatchError: a layer is missing or has another shape.
        UserError: a component is missing, or its weights are not in memory.
    """
    if isinstance(pipe, nn.Module) and len(mask.components) > 1:
        raise UserError(
            f"the mask of {mask.title} has layers of {' and '.join(mask.components)}: "
            "apply it to the whole pipeline"
        )
    components = {part: component_of(pipe, part) for part in mask.components}
    modules = {part: modules_of(component) for part, component in components.items()}
    folders = {part: folder_of(component, part) for part, component in components.items()}
    found = {}
    for name, layer in mask.layers.items():
        component, module = split_layer(name, mask.component)
        known = known_as(module, modules[component])
        linear = None if known is None else modules[component][known]
        if not isinstance(linear, nn.Linear) or tuple(linear.weight.shape) != layer.shape:
            what = "is missing" if linear is None else f"is {_one_line(linear)}"
            raise ModelMismatchError(
                f"the mask of {mask.title} wants a linear {layer.shape} at {name}, which "
                f"{what}: it was made for {mask.model_name}"
            )
        found[name] = Place(
            linear=linear,
            weight=live_weight(linear, name),
            module=module,
            folder=folders[component],
        )
    return found


def check_weights(mask: "PruningMask", found: Mapping[str, Place]) -> None:
    """Check that a mask was made for these weights, whatever masks are applied to them.

    Raises:
        ModelMismatchError: it was not; the message says how the weights differ.
    """
    for name, place in found.items():
        original = original_weight(place.linear, place.weight)
        if mask.layers[name].fits(original):
            continue
        file = stored_weight(place.folder, place.module)
        if file is not None and mask.layers[name].fits_file(original, file):
            continue
        raise ModelMismatchError(
            f"the mask of {mask.title} was made for {mask.model_name}, and {name} "
            f"{difference(mask, name, original, by_file=file is not None)}; pass force=True to "
            "apply it all the same"
        )


def difference(mask: "PruningMask", name: str, weight: Tensor, *, by_file: bool = False) -> str:
    """How a weight [R, W] differs from the one that a mask was made for.

    It belongs to another model, is in another precision, or was pruned earlier. `by_file`: the
    model's own file has been compared, too, which tells in each usual precision.
    """
    layer, precision = mask.layers[name], precision_of(weight)
    known = [torch.float32, torch.float16, torch.bfloat16]
    if not layer.rounded_digests and not by_file:
        # Older masks have one digest: of values in bfloat16, or else in float16.
        known.remove(torch.float16 if mask.collected_in == torch.bfloat16 else torch.bfloat16)
    elif len(set(layer.rounded_digests)) == 1 and not by_file:
        # It was made from rounded values, which tell nothing about another rounding of the model's.
        coarse = layer.weight_digest in layer.rounded_digests
        known.remove(torch.float16 if coarse else torch.bfloat16)
    if len(layer.entries) and are_zero(weight, layer.entries):
        return "is zero already where the mask prunes: the model was pruned before; load its base"
    if precision not in known:
        here, *there = (str(dtype).removeprefix("torch.") for dtype in (precision, *known))
        return (
            f"is in another precision, {here}, in which the mask does not know its weights: load "
            f"the model in {' or '.join(there)}, which tells whether it is the same model"
        )
    return "has other weights: it is another model, or one that was trained or edited since"


def is_held(mask: "PruningMask", found: Mapping[str, Place]) -> bool:
    """Whether this process applied the mask to all its layers, and has not removed it."""
    return all(mask.digest in applied_masks(place.linear) for place in found.values())


def is_zeroed(mask: "PruningMask", found: Mapping[str, Place]) -> bool:
    """Whether all of the mask's entries are zero in the model, for whatever reason.

    For a mask without entries: whether it was applied.
    """
    if not mask.num_entries:
        return is_held(mask, found)
    return all(are_zero(place.weight, mask.layers[name].entries) for name, place in found.items())


def is_active(mask: "PruningMask", found: Mapping[str, Place]) -> bool:
    """Whether the mask itself is active, not only other masks that cover its entries."""
    if not is_zeroed(mask, found):
        return False
    return is_held(mask, found) or not all(
        np.isin(mask.layers[name].entries, taken_entries(place.linear), assume_unique=True).all()
        for name, place in found.items()
    )


def switch(
    pipe: Any,
    *,
    off: Sequence["PruningMask"] = (),
    on: Sequence["PruningMask"] = (),
    force: bool = False,
) -> None:
    """Remove masks and apply others. If an error is raised, nothing is changed.

    With `force`, masks may be applied to weights they were not made for, and values that other code
    wrote to the weights of a removed mask are kept.

    Raises:
        ModelMismatchError: a mask to apply is not for this model.
        UserError: a mask to remove is fused, is not applied, or was overwritten.
    """
    with writing(pipe):
        leaving = {mask.digest for mask in off}
        found = {mask.digest: places(pipe, mask) for mask in (*off, *on)}
        for mask in off:
            _check_leaves(mask, found[mask.digest], leaving, force=force)
        for mask in on:
            if not force:
                check_weights(mask, found[mask.digest])
        for mask in off:
            for place in found[mask.digest].values():
                if mask.digest in applied_masks(place.linear):
                    restore_entries(place.linear, place.weight, {mask.digest})
        for mask in on:
            for name, place in found[mask.digest].items():
                zero_entries(place.linear, place.weight, mask.digest, mask.layers[name].entries)


def _check_leaves(
    mask: "PruningMask", found: Mapping[str, Place], leaving: set[str], *, force: bool
) -> None:
    missing = [
        name for name, place in found.items() if mask.digest not in applied_masks(place.linear)
    ]
    if len(missing) == len(found):
        known = is_zeroed(mask, found) and mask.num_entries
        why = ": its weights are zero, but the original bytes are not here" if known else ""
        raise UserError(f"the mask of {mask.title} is not applied to this model{why}")
    if missing and not force:
        raise UserError(
            f"the mask of {mask.title} is not applied to {missing[0]}, which is new since; "
            "remove(pipe, force=True) takes it off the rest"
        )
    if any(mask.digest in fused_masks(place.linear) for place in found.values()):
        raise UserError(
            f"the mask of {mask.title} is fused and cannot be taken off; call "
            "conceptprune.diffusers.unfuse_masks(pipe) first"
        )
    if force:
        return
    for name, place in found.items():
        together = leaving & set(applied_masks(place.linear))
        written = what_was_written(place.linear, place.weight, together)
        if written:
            raise UserError(
                f"the mask of {mask.title} cannot be taken off: something else has written to "
                f"{name} since ({written}): undo that first, such as a fused LoRA, or load the "
                "base model again; remove(pipe, force=True) gives back what is still zero"
            )


def fuse(pipe: Any, mask: "PruningMask", fused: bool) -> None:
    """Forbid removing a mask, or allow it again.

    Raises:
        UserError: it is not applied to `pipe`.
    """
    found = places(pipe, mask)
    if not is_held(mask, found):
        raise UserError(f"the mask of {mask.title} is not applied to this model")
    for place in found.values():
        set_fused(place.linear, mask.digest, fused)


def is_fused(pipe: Any, mask: "PruningMask") -> bool:
    """Whether a mask must not be removed."""
    return any(mask.digest in fused_masks(place.linear) for place in places(pipe, mask).values())


def _one_line(module: nn.Module) -> str:
    return str(module).splitlines()[0]
