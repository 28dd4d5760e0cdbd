"""Which family a model folder belongs to, and the digest that identifies a model."""

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

from conceptprune.digest import digest_json, known_file_digest
from conceptprune.errors import ModelMismatchError, UserError
from conceptprune.models.base import DiffusionModel
from conceptprune.models.components import check_component, module_classes, read_index
from conceptprune.models.flux import Flux
from conceptprune.models.other import OtherPipeline
from conceptprune.models.pipeline_modules import NOT_NEEDED
from conceptprune.models.pixart import PixArt
from conceptprune.models.sites import PATTERN_PREFIX, find_sites
from conceptprune.models.stable_diffusion import StableDiffusion
from conceptprune.models.stable_diffusion_3 import StableDiffusion3
from conceptprune.models.stable_diffusion_xl import StableDiffusionXL
from conceptprune.models.weights import checkpoint_files

FAMILIES: Mapping[str, type[DiffusionModel]] = {
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusionXL,
    "StableDiffusion3Pipeline": StableDiffusion3,
    "FluxPipeline": Flux,
    "PixArtAlphaPipeline": PixArt,
    "PixArtSigmaPipeline": PixArt,
}
"""Families by the diffusers pipeline class that a folder's model_index.json names."""

NOT_IDENTITY = {"vae", *NOT_NEEDED}
"""Components that do not affect what the denoiser computes."""
CONFIGS = {".json", ".txt", ".model"}


def components(folder: Path | str) -> list[str]:
    """Names of the components in a model folder.

    Raises:
        UserError: the folder is not a pipeline.
    """
    return [
        name
        for name, entry in read_index(folder).items()
        if isinstance(entry, list) and None not in entry
    ]


def family_named(pipeline: str) -> type[DiffusionModel]:
    """The family of a diffusers pipeline class; `OtherPipeline` if no family covers it."""
    return FAMILIES.get(pipeline, OtherPipeline)


def check_sites(pipeline: str, names: Sequence[str]) -> None:
    """Raise a `UserError` if a pipeline has no site of a given name.

    For a pipeline of no known family, sites must be regular expressions.
    """
    if pipeline not in FAMILIES and not all(name.startswith(PATTERN_PREFIX) for name in names):
        raise UserError(
            f"model: {pipeline} is not a pipeline known here; known are "
            f"{', '.join(sorted(FAMILIES))}. To prune it all the same, name its feed-forwards' "
            "linears yourself, with a regular expression for their module names in the denoiser: "
            "pruning: {site: 're:(.*\\.)?ff\\.net\\.2'}"
        )
    find_sites(family_named(pipeline).sites, names, pipeline)


def denoiser_of(folder: Path | str) -> str:
    """The name of the denoiser among a model folder's components.

    Raises:
        UserError: the folder is not a pipeline, or has no denoiser.
    """
    return family_of(folder).denoiser_among(components(folder))


def family_of(folder: Path | str) -> type[DiffusionModel]:
    """The family of a model folder.

    Raises:
        UserError: the folder is not a pipeline.
    """
    return family_named(read_index(folder)["_class_name"])


def check_model(folder: Path | str) -> None:
    """Check that a model folder is of a supported kind and has every tensor it needs.

    Reads configs and the headers of safetensors files, but no weights.

    Raises:
        UserError: names the file, the field or tensor, and the likely reason.
    """
    folder = Path(folder)
    index = read_index(folder)
    family = family_named(index["_class_name"])
    family.check_configs(folder, index)
    for name, kind in module_classes(folder, index, family.not_needed).items():
        check_component(kind, folder / name)


def identity(folder: Path | str) -> str:
    """Digest of the files that decide what the denoiser computes: weights, configs, tokenizer.

    Raises:
        UserError: the folder is not a pipeline, or the denoiser or a text encoder has no
        safetensors checkpoint.
    """
    folder = Path(folder)
    parts = [name for name in components(folder) if name not in NOT_IDENTITY]
    denoiser = denoiser_of(folder)
    files = [
        path
        for part in parts
        for path in sorted((folder / part).glob("*"))
        if path.suffix in CONFIGS
    ]
    for part in parts:
        required = part.startswith("text_encoder") or part == denoiser
        if required or any((folder / part).glob("*.safetensors")):
            files += checkpoint_files(folder / part)
    return digest_json(
        {path.relative_to(folder).as_posix(): known_file_digest(path) for path in files}
    )


def check_identity(folder: Path, found: str, planned: str) -> None:
    """Refuse a model folder on this machine that differs from the one the job was planned with.

    Raises:
        ModelMismatchError: it differs, so its results would be committed under the wrong keys.
    """
    if found != planned:
        raise ModelMismatchError(
            f"model: {folder} on {platform.node()} has the digest {found[:12]}, and this job was "
            f"planned with {planned[:12]}: put the same files on every machine, and start it again"
        )
