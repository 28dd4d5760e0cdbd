"""Pruned checkpoints: the edited tensors only, or a whole pipeline folder."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import safe_open
from torch import Tensor

from conceptprune.digest import canonical_json
from conceptprune.masks.layer_mask import LayerMask
from conceptprune.masks.mask import PruningMask
from conceptprune.models.components import INDEX, parameter_names, read_index
from conceptprune.models.families import components
from conceptprune.models.weights import (
    PICKLED,
    checkpoint_files,
    find_checkpoint,
    known_as,
    read_tensors,
    read_weights,
)

CONFIG_SUFFIXES = {".json", ".txt", ".md", ".model"}
"""Files of a pipeline folder besides its weights."""


Edit = Callable[[str, LayerMask, Tensor], Tensor]
"""From a module's name, its mask and its weight [R, W] to the edited copy."""


Change = Callable[[Tensor], Tensor]
"""From a tensor of the model's file to the edited copy."""

Changes = Mapping[str, Mapping[str, Change]]
"""By component and parameter name ("...to_k.weight")."""


def mask_changes(mask: PruningMask, edit: Edit) -> Changes:
    """What a mask changes."""
    return {
        component: {
            f"{name}.weight": partial(edit, name, layer)
            for name, layer in mask.of_component(component).items()
            if len(layer.entries)
        }
        for component in mask.components
    }


def zeroed(name: str, layer: LayerMask, weight: Tensor) -> Tensor:
    """A copy of the weight with the mask's entries set to zero."""
    return layer.pruned(weight)


def delta_file(
    mask: PruningMask,
    model_folder: Path,
    component: str | None = None,
    edit: Edit = zeroed,
    *,
    whole: bool = False,
) -> bytes:
    """One safetensors file of a component's edited tensors, under its own parameter names.

    `component` is the mask's first one by default; a mask of several needs one file for each. With
    `whole`, the file also has the tensors that are not edited: it is then the component's state
    dict, for a strict `load_state_dict`.

    Tensors keep the dtype of the model's own files, so that only pruned weights change.

    Load it with `pipe.unet.load_state_dict(load_file(path), strict=False)`.
    """
    component = component or mask.components[0]
    part = mask.of_component(component)
    names = [name for name, layer in part.items() if len(layer.entries)]
    weights = read_weights(model_folder / component, names)
    tensors = {f"{name}.weight": edit(name, part[name], weights[name]) for name in names}
    return encode_delta(
        whole_component(tensors, model_folder / component) if whole else tensors,
        component=component,
        concepts=mask.concepts,
        mask=mask.digest,
        provenance=mask.provenance,
    )


def whole_component(tensors: Mapping[str, Tensor], component_folder: Path) -> Mapping[str, Tensor]:
    """A component's state dict, for a strict `load_state_dict`, with edited tensors in it.

    Other tensors of its files, such as an adapter's that were saved with it, are left out.
    """
    known = parameter_names(component_folder.parent, component_folder.name)
    others = {
        name: tensor
        for name, tensor in read_tensors(component_folder).items()
        if known_as(name, known) is not None
    }
    keys = {known_as(name, others) or name: name for name in tensors}
    return others | {key: tensors[name] for key, name in keys.items()}


def encode_delta(
    tensors: Mapping[str, Tensor],
    *,
    component: str,
    concepts: Sequence[str],
    mask: str | None,
    provenance: Mapping[str, Any],
) -> bytes:
    """A delta file of edited tensors by parameter name; `mask` is a mask's digest or None."""
    header = {
        "format": "conceptprune.delta/1",
        "component": component,
        "concepts": concepts,
        "mask": mask,
        "provenance": provenance,
    }
    # Only one metadata key: safetensors writes several in no fixed order.
    return safetensors.torch.save(dict(tensors), {"conceptprune": canonical_json(header)})


def pipeline_files(
    mask: PruningMask, model_folder: Path, edit: Edit = zeroed
) -> Iterator[tuple[str, bytes]]:
    """Every file of a `from_pretrained` folder (path in it, bytes), with the mask's weights zeroed;
    see `changed_pipeline`."""
    return changed_pipeline(mask_changes(mask, edit), model_folder)


def changed_pipeline(changes: Changes, model_folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file of a `from_pretrained` folder (path in it, bytes), with changed tensors.

    Tensors keep the dtype of the model's own files; files without edited tensors are unchanged.
    Variants (`*.fp16.*`) and single-file checkpoints are left out: they would bring back what was
    pruned. If a component has only a variant, the copy gives it the plain name. Pickled weights are
    left out; a component with no other weights (a safety checker) is left out completely, also from
    the copy's model_index.json.
    """
    absent = pickled_components(model_folder)
    plain = _plain_names(model_folder)
    changed = {
        path: of_component
        for component, of_component in changes.items()
        for path in checkpoint_files(model_folder / component)
    }
    for path in folder_files(model_folder):
        data = _edited(path, changed[path]) if path in changed else path.read_bytes()
        name = path.relative_to(model_folder)
        if absent and name == Path(INDEX):
            index = read_index(model_folder) | {part: [None, None] for part in absent}
            data = (json.dumps(index, indent=2) + "\n").encode()
        yield name.with_name(plain.get(path, path.name)).as_posix(), data


def folder_files(model_folder: Path) -> list[Path]:
    """The files of a model folder that `from_pretrained` uses: configs, and one checkpoint per
    component."""
    files = [
        path
        for pattern in ("*", "*/*")
        for path in model_folder.glob(pattern)
        if path.is_file() and path.suffix in CONFIG_SUFFIXES
    ]
    absent = pickled_components(model_folder)
    files = [path for path in files if path.parent.name not in absent]
    for component in {path.parent for path in model_folder.glob("*/*.safetensors")}:
        files += checkpoint_files(component)
    return sorted(files)


def pickled_components(model_folder: Path) -> list[str]:
    """The components whose only weights are pickled, which a copy leaves out."""
    return [
        name
        for name in components(model_folder)
        if not any((model_folder / name).glob("*.safetensors"))
        and any(path.suffix in PICKLED for path in (model_folder / name).glob("*"))
    ]


def _plain_names(model_folder: Path) -> dict[Path, str]:
    """Names without the variant, for files of a component that has only a variant."""
    found = {}
    for component in {path.parent for path in model_folder.glob("*/*.safetensors")}:
        checkpoint = find_checkpoint(component)
        if checkpoint.variant is not None:
            # Shards keep their names, because the index refers to them.
            found[checkpoint.title] = checkpoint.title.name.replace(f".{checkpoint.variant}", "")
    return found


def _edited(path: Path, changes: Mapping[str, Change]) -> bytes:
    with safe_open(path, framework="pt") as stream:
        tensors = {key: stream.get_tensor(key) for key in sorted(stream.keys())}
    for name, change in changes.items():
        key = known_as(name, tensors.keys())
        if key is not None:
            tensors[key] = change(tensors[key])
    return safetensors.torch.save(tensors, {"format": "pt"})
