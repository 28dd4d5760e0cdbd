"""Checkpoints without a mask's weights: the edited tensors alone, or a whole pipeline folder."""

from collections.abc import Iterator
from pathlib import Path

import safetensors.torch
from safetensors import safe_open

from conceptprune.digest import canonical_json
from conceptprune.mask import PruningMask
from conceptprune.weights import checkpoint_files, read_weights

CONFIG_SUFFIXES = {".json", ".txt", ".md"}
"""What a pipeline folder has beside its weights."""


def delta_file(mask: PruningMask, model_folder: Path) -> bytes:
    """One safetensors file of the edited tensors, under the component's own parameter names.

    Tensors keep the dtype of the model's own files, so that only pruned weights change.

    Load it with `pipe.unet.load_state_dict(load_file(path), strict=False)`.
    """
    names = [name for name, layer in mask.layers.items() if len(layer.entries)]
    weights = read_weights(model_folder / mask.component, names)
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
    Variants (`*.fp16.*`) and single-file checkpoints are left out: they would bring back what was
    pruned. So are pickled weights.
    """
    edited = {f"{name}.weight": name for name, layer in mask.layers.items() if len(layer.entries)}
    pruned = set(checkpoint_files(model_folder / mask.component))
    for path in folder_files(model_folder):
        data = _without_entries(path, mask, edited) if path in pruned else path.read_bytes()
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


def _without_entries(path: Path, mask: PruningMask, edited: dict[str, str]) -> bytes:
    with safe_open(path, framework="pt") as stream:
        tensors = {key: stream.get_tensor(key) for key in sorted(stream.keys())}
    weights = {edited[key]: tensor for key, tensor in tensors.items() if key in edited}
    for name, layer in mask.layers.items():
        if name in weights and len(layer.entries):
            tensors[f"{name}.weight"] = weights[name].clone()
            tensors[f"{name}.weight"].view(-1)[layer.entries] = 0
    return safetensors.torch.save(tensors, {"format": "pt"})
