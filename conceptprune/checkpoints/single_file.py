"""An edited pipeline as one safetensors file under LDM's names, for A1111, ComfyUI and the like."""

import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from conceptprune.checkpoints.files import Change, Changes, Edit, mask_changes, zeroed
from conceptprune.checkpoints.ldm_names import (
    LdmTensor,
    bare_name,
    clip_tensors,
    open_clip_tensors,
    unet_tensors,
    vae_tensors,
)
from conceptprune.digest import canonical_json
from conceptprune.errors import UserError
from conceptprune.masks.mask import PruningMask
from conceptprune.models.components import read_index, read_json
from conceptprune.models.sampling_keys import sampling_tensors
from conceptprune.models.weights import checkpoint_files

FORMAT = "conceptprune.single-file/1"
XL = "StableDiffusionXLPipeline"
SINGLE_FILE_PIPELINES = ("StableDiffusionPipeline", XL)
"""Pipelines with single-file checkpoints: Stable Diffusion 1.x, 2.x and XL."""

CLIP_V1 = "cond_stage_model.transformer."
OPEN_CLIP_V2 = "cond_stage_model.model."
CLIP_XL = "conditioner.embedders.0.transformer."
OPEN_CLIP_XL = "conditioner.embedders.1.model."
POSITION_IDS = "embeddings.position_ids"

Layout = Callable[[Iterable[str]], list[LdmTensor]]
"""Maps a component's keys to the tensors of the file."""


def check_single_file(pipeline: str) -> None:
    """Raise a `UserError` if a diffusers pipeline class has no single-file form."""
    if pipeline not in SINGLE_FILE_PIPELINES:
        raise UserError(
            f"--as single-file: {pipeline} has no such form, which there is for Stable Diffusion "
            "1.x, 2.x and XL only; use pipeline, delta or mask"
        )


def write_single_file(
    mask: PruningMask, model_folder: Path, path: Path, edit: Edit = zeroed
) -> None:
    """Write the whole model, without the mask's weights (or otherwise with `edit`), to `path`.

    Raises:
        UserError: see `write_changed_file`.
    """
    write_changed_file(
        mask_changes(mask, edit),
        model_folder,
        path,
        component=mask.component,
        concepts=mask.concepts,
        mask=mask.digest,
        provenance=mask.provenance,
    )


def write_changed_file(
    changes: Changes,
    model_folder: Path,
    path: Path,
    *,
    component: str,
    concepts: Sequence[str],
    mask: str | None,
    provenance: Mapping[str, Any],
) -> None:
    """Write the whole model with changed tensors to `path`; the rest is what the file says of them.

    Tensors keep the dtype of the model's own files and are copied through memory maps: only those
    that are edited, joined or transposed are held in memory.

    Raises:
        UserError: the model's family has no such files, a tensor has no name there, or the model is
        sampled in a way that such files cannot express.
    """
    index = read_index(model_folder)
    layouts = _layouts(index, model_folder)
    header = {
        "format": FORMAT,
        "component": component,
        "concepts": concepts,
        "mask": mask,
        "provenance": provenance,
    }
    with ExitStack() as files:
        tensors: dict[str, Tensor] = {}
        for name, layout in layouts.items():
            found = _mapped(model_folder / name, files)
            _change(found, changes.get(name, {}), name)
            tensors |= {tensor.name: _built(tensor, found) for tensor in layout(found)}
        tensors |= dict(_positions(tensors)) | sampling_tensors(
            model_folder, xl=index["_class_name"] == XL
        )
        # safetensors creates files readable by their owner only; give it the usual mode.
        path.touch()
        mode = stat.S_IMODE(path.stat().st_mode)
        # Only one metadata key: safetensors writes several in no fixed order.
        safetensors.torch.save_file(tensors, path, {"conceptprune": canonical_json(header)})
        path.chmod(mode)


def _layouts(index: Mapping[str, Any], model_folder: Path) -> dict[str, Layout]:
    """How each component of the model is written, by name."""
    check_single_file(index["_class_name"])
    unet = _config(model_folder / "unet")
    vae = _config(model_folder / "vae")
    layouts: dict[str, Layout] = {
        "unet": lambda keys: unet_tensors(keys, unet),
        "vae": lambda keys: vae_tensors(keys, vae),
    }
    if index["_class_name"] == XL:
        return layouts | {
            "text_encoder": lambda keys: clip_tensors(keys, CLIP_XL),
            "text_encoder_2": lambda keys: open_clip_tensors(keys, OPEN_CLIP_XL),
        }
    # 2.x uses OpenCLIP's text encoder, and linear layers where 1.x had 1 x 1 convolutions.
    if unet["use_linear_projection"]:
        return layouts | {"text_encoder": lambda keys: open_clip_tensors(keys, OPEN_CLIP_V2)}
    return layouts | {"text_encoder": lambda keys: clip_tensors(keys, CLIP_V1)}


def _mapped(component_folder: Path, files: ExitStack) -> dict[str, Tensor]:
    """All weights of a component, mapped into memory while `files` are open."""
    tensors = {}
    for path in checkpoint_files(component_folder):
        stream = files.enter_context(safe_open(path, framework="pt"))
        for key in stream.keys():  # noqa: SIM118
            if bare_name(key) != POSITION_IDS:
                tensors[key] = stream.get_tensor(key)
    return tensors


def _change(tensors: dict[str, Tensor], changes: Mapping[str, Change], component: str) -> None:
    """Replace each changed tensor by its edited copy."""
    keys = {bare_name(key): key for key in tensors}
    for name, change in changes.items():
        key = keys.get(bare_name(name))
        if key is None:
            raise UserError(f"{component}: no tensor {name} in the model's files")
        tensors[key] = change(tensors[key])


def _built(tensor: LdmTensor, tensors: Mapping[str, Tensor]) -> Tensor:
    parts = [tensors[key] for key in tensor.keys]
    joined = parts[0] if len(parts) == 1 else torch.cat(parts)
    if tensor.change == "convolution":
        return joined.view(*joined.shape[:2], 1, 1)
    return joined.T.contiguous() if tensor.change == "transposed" else joined


def _positions(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The position ids of the text, which such files contain besides weights."""
    for prefix in (CLIP_V1, CLIP_XL):
        positions = tensors.get(f"{prefix}text_model.embeddings.position_embedding.weight")
        if positions is not None:
            yield f"{prefix}text_model.{POSITION_IDS}", torch.arange(len(positions))[None]


def _config(component_folder: Path) -> dict[str, Any]:
    return read_json(component_folder / "config.json")
