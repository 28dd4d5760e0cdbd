"""Single-file checkpoints as models: converted once per machine into a `from_pretrained` folder."""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from conceptprune.digest import digest_file, digest_json
from conceptprune.errors import UserError
from conceptprune.models.components import INDEX, read_index
from conceptprune.models.families import components
from conceptprune.models.node_cache import PARTIAL, cache_folder, made_once
from conceptprune.models.sampling_keys import SAMPLING_TENSORS, check_sampling
from conceptprune.models.weights import CHECKPOINT_NAMES
from conceptprune.versions import versions

CONFIG_SUFFIXES = {".json", ".txt", ".model"}
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
UNET = ("model.diffusion_model.",)
VAE = ("first_stage_model.", "vae.")
PREFIXES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "StableDiffusionPipeline": {"unet": UNET, "vae": VAE, "text_encoder": ("cond_stage_model.",)},
    "StableDiffusionXLPipeline": {
        "unet": UNET,
        "vae": VAE,
        "text_encoder": ("conditioner.embedders.0.",),
        "text_encoder_2": ("conditioner.embedders.1.",),
    },
}
"""How the names of each component's tensors begin, by pipeline."""
INDEX_OF_SHARDS = ".safetensors.index.json"


def converted_folder(file: Path, config: Path) -> Path:
    """Convert a single file to a folder, named by the digests of the file and its configs.

    diffusers reads the file. The folder gets the configs unchanged, and tensors in the file's dtype
    (float32 if it has several). Of several processes that ask at once, one converts.

    Raises:
        UserError: the file or the configs are missing, or do not belong together.
    """
    if not file.is_file():
        raise UserError(f"model.file: {file} is not a file on this machine")
    if not config.is_dir():
        raise UserError(
            f"model.config: {config} is not a folder on this machine; it must have the "
            "model_index.json, configs and tokenizers of the model that the file is of, such as "
            "`hf download ORGANISATION/NAME --include '*.json' '*.txt' --local-dir FOLDER` fetches"
        )
    configs = {path: digest_file(config / path) for path in _config_files(config)}
    made_with = {name: versions()[name] for name in ("diffusers", "transformers")}
    # Named so that `converted_from` finds it without the configs.
    of_configs = digest_json([configs, made_with])
    folder = _cache() / digest_file(file) / of_configs
    return made_once(folder, lambda partial: _convert(file, config, partial))


def converted_from(file: Path) -> list[Path]:
    """The folders that a single file was converted into on this machine."""
    folders = (_cache() / digest_file(file)).glob("*")
    return sorted(path for path in folders if path.is_dir() and path.suffix != PARTIAL)


def _cache() -> Path:
    return cache_folder() / "single-files"


def _config_files(config: Path) -> Iterator[str]:
    for path in sorted([*config.glob("*"), *config.glob("*/*")]):
        wanted = path.suffix in CONFIG_SUFFIXES and not path.name.endswith(INDEX_OF_SHARDS)
        if wanted and path.is_file():
            yield path.relative_to(config).as_posix()


def _convert(file: Path, config: Path, out: Path) -> None:
    # Imported here because it is slow, and only such models need it.
    import diffusers
    from diffusers.loaders.single_file_utils import SingleFileComponentError
    from safetensors.torch import save_file

    name = read_index(config)["_class_name"]
    pipeline = getattr(diffusers, name, None)
    if pipeline is None or not hasattr(pipeline, "from_single_file"):
        raise UserError(
            f"model.config: {config} belongs to a {name}, which diffusers cannot "
            "load from a single file"
        )
    try:
        _check_parts(file, config, name)
        check_sampling(file, config)
    except (SafetensorError, OSError) as error:
        raise UserError(f"model.file: {file} is not a safetensors file: {error}") from error
    for path in _config_files(config):
        (out / path).parent.mkdir(exist_ok=True)
        shutil.copyfile(config / path, out / path)
    try:
        # Use the copy, which has only configs, so that all weights come from the file.
        pipe = pipeline.from_single_file(
            # A name that old and new versions accept: some silently ignore `dtype`.
            str(file),
            config=str(out),
            local_files_only=True,
            torch_dtype=_dtype(file),
        )
        for component, stem, tensors in _weights(pipe, components(out)):
            save_file(tensors, out / component / f"{stem}.safetensors", {"format": "pt"})
        # A single file never contains the safety checker.
        absent = {part: [None, None] for part in components(out) if getattr(pipe, part) is None}
        if absent:
            (out / INDEX).write_text(json.dumps({**read_index(out), **absent}), encoding="utf-8")
    except (
        *(SafetensorError, SingleFileComponentError, OSError, RuntimeError),
        # As diffusers' classes raise them for configs with values of another kind.
        *(ValueError, LookupError, TypeError, AttributeError, ArithmeticError, AssertionError),
        ImportError,
    ) as error:
        raise UserError(
            f"model.file: {file} cannot be loaded as the {name} that {config} describes: {error}"
        ) from error


def _check_parts(file: Path, config: Path, pipeline: str) -> None:
    """Refuse a file that lacks a whole component required by its configs.

    Raises:
        UserError: names the component, and the prefix its tensors' names should have.
    """
    with safe_open(file, framework="pt") as stream:
        names = set(stream.keys())
    for part, prefixes in PREFIXES.get(pipeline, {}).items():
        if part in components(config) and not any(name.startswith(prefixes) for name in names):
            raise UserError(
                f"model.file: {file} has no {part}: no tensor's name begins with {prefixes[0]}; "
                "use a file with the whole model in it, or a folder"
            )


def _weights(pipe: Any, names: list[str]) -> Iterator[tuple[str, str, dict[str, Tensor]]]:
    """(component, stem of its checkpoint, its tensors) of each component with weights."""
    from diffusers import ModelMixin

    for name in names:
        module = getattr(pipe, name)
        if not isinstance(module, nn.Module):
            continue
        tensors = module.state_dict()
        missing = [key for key, tensor in tensors.items() if tensor.is_meta]
        if missing:
            raise ValueError(f"the file has no {missing[0]} of the {name}")
        denoiser, encoder = CHECKPOINT_NAMES
        stem = denoiser if isinstance(module, ModelMixin) else encoder
        yield name, stem, {key: tensor.contiguous() for key, tensor in tensors.items()}


def _dtype(file: Path) -> torch.dtype:
    """The floating-point type of a file's weights; float32 if it has several."""
    with safe_open(file, framework="pt") as stream:
        weights = set(stream.keys()) - SAMPLING_TENSORS
        names = {stream.get_slice(key).get_dtype() for key in weights}
    found = names & DTYPES.keys()
    return DTYPES[found.pop()] if len(found) == 1 else torch.float32
