"""A delta on a live model: edited tensors that are put in, and taken out to the last byte."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import safe_open
from torch import Tensor

from conceptprune.checkpoints.delta_reader import read_delta
from conceptprune.checkpoints.files import Change, Changes
from conceptprune.errors import ModelMismatchError
from conceptprune.masks.mask import PruningMask
from conceptprune.models.base import DiffusionModel
from conceptprune.models.families import components, denoiser_of
from conceptprune.models.weights import checkpoint_files, component_of, known_as


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """Edited tensors of a pipeline's components, by component and parameter name."""

    tensors: Mapping[str, Mapping[str, Tensor]]
    concepts: tuple[str, ...] = ()

    @classmethod
    def from_bytes(cls, data: bytes, folder: Path) -> "Delta":
        """Read a safetensors file of edited tensors under diffusers' parameter names.

        Names may start with the component ("unet."), as some tools write them. Otherwise they
        belong to the denoiser, or to the component named in the file's metadata.

        Args:
            data: the file.
            folder: the base model, whose parameters must have these names and shapes.

        Raises:
            UserError: not a safetensors file, or it has no tensors.
            ModelMismatchError: a tensor is not in the base model, or has another shape.
        """
        own, tensors = read_delta(data)
        default = own.component if own else denoiser_of(folder)
        known = components(folder)
        if default not in known:
            raise ModelMismatchError(
                f"edits {default!r:.200}, and the base model has {', '.join(known)}"
            )
        parts: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            component, _, rest = name.partition(".")
            if component not in known:
                component, rest = default, name
            parts.setdefault(component, {})[rest] = tensor
        _check_shapes(parts, folder)
        return cls(tensors=parts, concepts=own.concepts if own else ())


def _check_shapes(parts: Mapping[str, Mapping[str, Tensor]], folder: Path) -> None:
    for component, tensors in parts.items():
        shapes: dict[str, tuple[int, ...]] = {}
        for path in checkpoint_files(folder / component):
            with safe_open(path, framework="pt") as stream:
                keys = set(stream.keys())
                for name in tensors:
                    if (key := known_as(name, keys)) is not None:
                        shapes[name] = tuple(stream.get_slice(key).get_shape())
        for name, tensor in sorted(tensors.items()):
            if shapes.get(name) != tuple(tensor.shape):
                found = f"has {list(shapes[name])}" if name in shapes else "has no such parameter"
                raise ModelMismatchError(
                    f"{component}.{name} is {list(tensor.shape)} in the delta, and the base model "
                    f"{found}: it was made for another model, or is not under diffusers' names"
                )


def load_edit(kind: Literal["mask", "delta"], data: bytes, folder: Path) -> PruningMask | Delta:
    """The mask or delta in a file's bytes.

    Raises:
        UserError, ModelMismatchError: it is neither, or was made for a model other than `folder`.
    """
    return PruningMask.from_bytes(data) if kind == "mask" else Delta.from_bytes(data, folder)


@contextmanager
def applied(model: DiffusionModel, edit: PruningMask | Delta | None) -> Iterator[None]:
    """Inside the context, `model` has the edit; afterwards every byte is restored, even after
    errors.

    Raises:
        ModelMismatchError: the edit is not for this model, which then has not changed.
    """
    match edit:
        case None:
            yield
        case PruningMask():
            edit.apply(model.pipe)
            model.forget_encodings()
            try:
                yield
            finally:
                edit.remove(model.pipe)
                model.forget_encodings()
        case Delta():
            parameters = _parameters(model, edit)
            before = [parameter.detach().clone() for parameter, _ in parameters]
            try:
                with torch.no_grad():
                    for parameter, tensor in parameters:
                        parameter.copy_(tensor)
                model.forget_encodings()
                yield
            finally:
                with torch.no_grad():
                    for (parameter, _), original in zip(parameters, before, strict=True):
                        parameter.copy_(original)
                model.forget_encodings()


def _parameters(model: DiffusionModel, delta: Delta) -> list[tuple[Tensor, Tensor]]:
    """Each edited parameter or buffer of the live model, with its new value."""
    found = []
    for component, tensors in delta.tensors.items():
        module = component_of(model.pipe, component)
        live = dict(module.state_dict(keep_vars=True))
        for name, tensor in tensors.items():
            key = known_as(name, live)
            if key is None or live[key].shape != tensor.shape:
                raise ModelMismatchError(
                    f"the model has no {component}.{name} of the delta's shape"
                )
            found.append((live[key], tensor))
    return found


def delta_changes(delta: Delta) -> Changes:
    """What a delta changes, for `files.changed_pipeline`."""

    def put(tensor: Tensor) -> Change:
        return lambda weight: tensor.to(weight.dtype)

    return {
        component: {name: put(tensor) for name, tensor in tensors.items()}
        for component, tensors in delta.tensors.items()
    }
