"""Checkpoints without a mask's weights: the edited tensors alone, or a whole pipeline folder."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import safe_open
from torch import Tensor

from conceptprune.digest import canonical_json
from conceptprune.masks.mask import LayerMask, PruningMask
from conceptprune.models.weights import checkpoint_files, known_as, read_weights

CONFIG_SUFFIXES = {".json", ".txt", ".md", ".model"}
"""What a pipeline folder has beside its weights."""


Edit = Callable[[str, LayerMask, Tensor], Tensor]
"""Given a module's name, its mask and its weight [R, W]: a copy without the concept."""


def zeroed(name: str, layer: LayerMask, weight: Tensor) -> Tensor:
    """A copy of the weight with the mask's entries at zero."""
    return layer.pruned(weight)


def delta_file(
    mask: PruningMask, model_folder: Path, component: str | None = None, edit: Edit = zeroed
) -> bytes:
    """One safetensors file of a component's edited tensors, under its own parameter names.

    `component` is the mask's first one by default; a mask of several needs a file for each.

    Tensors keep the dtype of the model's own files, so that only pruned weights change.

    Load it with `pipe.unet.load_state_dict(load_file(path), strict=False)`.
    """
    component = component or mask.components[0]
    part = mask.of_component(component)
    names = [name for name, layer in part.items() if len(layer.entries)]
    weights = read_weights(model_folder / component, names)
    tensors = {f"{name}.weight": edit(name, part[name], weights[name]) for name in names}
    return encode_delta(
        tensors,
        component=component,
        concepts=mask.concepts,
        mask=mask.digest,
        provenance=mask.provenance,
    )


def encode_delta(
    tensors: Mapping[str, Tensor],
    *,
    component: str,
    concepts: Sequence[str],
    mask: str | None,
    provenance: Mapping[str, Any],
) -> bytes:
    """A delta file of edited tensors by parameter name; `mask` is the digest of one, if any was."""
    header = {
        "format": "conceptprune.delta/1",
        "component": component,
        "concepts": concepts,
        "mask": mask,
        "provenance": provenance,
    }
    # One metadata key only: safetensors writes several in no fixed order.
    return safetensors.torch.save(dict(tensors), {"conceptprune": canonical_json(header)})


def pipeline_files(
    mask: PruningMask, model_folder: Path, edit: Edit = zeroed
) -> Iterator[tuple[str, bytes]]:
    """Every file of a `from_pretrained` folder (path in it, bytes), with the mask's weights zeroed.

    Tensors keep the dtype of the model's own files; files without edited tensors are unchanged.
    Variants (`*.fp16.*`) and single-file checkpoints are left out: they would bring back what was
    pruned. So are pickled weights.
    """
    pruned = {
        path: mask.of_component(component)
        for component in mask.components
        for path in checkpoint_files(model_folder / component)
    }
    for path in folder_files(model_folder):
        data = _edited(path, pruned[path], edit) if path in pruned else path.read_bytes()
        yield path.relative_to(model_folder).as_posix(), data


def folder_files(model_folder: Path) -> list[Path]:
    """The files of a model folder that `from_pretrained` uses: configs, and one checkpoint each."""
    files = [
        path
        for pattern in ("*", "*/*")
        for path in model_folder.glob(pattern)
        if path.is_file() and path.suffix in CONFIG_SUFFIXES
    ]
    for component in {path.parent for path in model_folder.glob("*/*.safetensors")}:
        files += checkpoint_files(component)
    return sorted(files)


def _edited(path: Path, layers: Mapping[str, LayerMask], edit: Edit) -> bytes:
    with safe_open(path, framework="pt") as stream:
        tensors = {key: stream.get_tensor(key) for key in sorted(stream.keys())}
    for name, layer in layers.items():
        key = known_as(f"{name}.weight", tensors.keys())
        if key is not None and len(layer.entries):
            tensors[key] = edit(name, layer, tensors[key])
    return safetensors.torch.save(tensors, {"format": "pt"})
