"""Checkpoints without a mask's weights: the edited tensors alone, or a whole pipeline folder."""

from collections.abc import Iterator
from pathlib import Path

import safetensors.torch
import torch
from safetensors import safe_open

from conceptprune.digest import canonical_json
from conceptprune.mask import PruningMask
from conceptprune.weights import checkpoint_files, read_weights

FOLDER_SUFFIXES = {".json", ".txt", ".safetensors", ".md"}
"""What a pipeline folder of ours may hold: no pickled weights are passed on."""


def delta_file(mask: PruningMask, model_folder: Path, dtype: torch.dtype) -> bytes:
    """One safetensors file of the edited tensors, under the component's own parameter names.

    Load it with `pipe.unet.load_state_dict(load_file(path), strict=False)`.
    """
    names = [name for name, layer in mask.layers.items() if len(layer.entries)]
    weights = read_weights(model_folder / mask.component, names, dtype)
    tensors = {f"{name}.weight": tensor for name, tensor in mask.pruned_weights(weights).items()}
    header = {
        "format": "conceptprune.delta/1",
        "component": mask.component,
        "concepts": mask.concepts,
        "mask": mask.digest,
        "provenance": mask.provenance,
    }
    # One metadata key only: safetensors writes several in no fixed order.
    return safetensors.torch.save(tensors, {"conceptprune": canonical_json(header)})


def pipeline_files(mask: PruningMask, model_folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file of a `from_pretrained` folder (path in it, bytes), with the mask's weights zeroed.

    Tensors keep the dtype of the model's own files; files without edited tensors are unchanged.
    """
    edited = {f"{name}.weight": name for name, layer in mask.layers.items() if len(layer.entries)}
    checkpoints = set(checkpoint_files(model_folder / mask.component))
    for path in sorted(model_folder.rglob("*")):
        if not path.is_file() or path.suffix not in FOLDER_SUFFIXES:
            continue
        data = path.read_bytes()
        if path in checkpoints:
            data = _without_entries(path, mask, edited)
        yield path.relative_to(model_folder).as_posix(), data


def _without_entries(path: Path, mask: PruningMask, edited: dict[str, str]) -> bytes:
    with safe_open(path, framework="pt") as stream:
        tensors = {key: stream.get_tensor(key) for key in sorted(stream.keys())}
    weights = {edited[key]: tensor for key, tensor in tensors.items() if key in edited}
    for name, layer in mask.layers.items():
        if name in weights and len(layer.entries):
            tensors[f"{name}.weight"] = weights[name].clone()
            tensors[f"{name}.weight"].view(-1)[layer.entries] = 0
    return safetensors.torch.save(tensors, {"format": "pt"})
