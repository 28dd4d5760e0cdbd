"""`conceptprune validate`: check a manifest or suite without running a model."""

import re
from collections.abc import Iterator
from pathlib import Path

from conceptprune.errors import ManifestError, UserError
from conceptprune.evaluation.job_manifest import JobManifest
from conceptprune.evaluation.suite import Suite
from conceptprune.manifest.fields import NamedPath
from conceptprune.manifest.loading import MAX_BYTES, load_with_paths
from conceptprune.manifest.model import FolderModel
from conceptprune.strict_reading import open_regular

SUITE = re.compile(rb"^groups\s*:", re.MULTILINE)
"""A key that only a suite has."""


def validate(path: Path, *, model: bool = False) -> str:
    """Check a manifest or a suite; with `model`, also its model's tensors.

    Returns:
        A one-line summary.

    Raises:
        UserError: something is wrong; the message lists every problem.
    """
    if _is_suite(path):
        suite, named = load_with_paths(path, Suite)
        _refuse(path, list(_missing(named)))
        concepts = len(suite.groups.erased) + len(suite.groups.retained)
        return f"{path}: good, a suite of {concepts} concepts and {len(suite.scorers)} scorers"
    manifest, named = load_with_paths(path, JobManifest)
    problems = list(_missing(named))
    if not problems and isinstance(manifest.model, FolderModel):
        problems += _sites(Path(manifest.model.folder), manifest)
    _refuse(path, problems)
    if model:
        from ..jobs.preparation import prepare

        prepare(path)
    return f"{path}: good, {len(manifest.concepts)} concepts to erase"


def _is_suite(path: Path) -> bool:
    try:
        with open_regular(path) as file:
            return bool(SUITE.search(file.read(MAX_BYTES)))
    except (OSError, ValueError):
        # Read again by the code that reports what is wrong.
        return False


def _missing(named: tuple[NamedPath, ...]) -> Iterator[str]:
    """Files and folders that are named but missing."""
    for each in named:
        if not Path(each.found).exists():
            yield f"{each.field}: {each.written} is not there (looked for {each.found})"


def _sites(folder: Path, manifest: JobManifest) -> Iterator[str]:
    """Sites that match nothing in a model's folder."""
    # Imported here because they import torch, which is not needed if the model is elsewhere.
    from conceptprune.models.components import read_index
    from conceptprune.models.families import check_sites, components, denoiser_of, family_named
    from conceptprune.models.sites import find_sites

    names = manifest.pruning.sites
    try:
        pipeline = read_index(folder)["_class_name"]
        check_sites(pipeline, names)
        denoiser = denoiser_of(folder)
        inside = _modules(folder / denoiser)
        encoders = [name for name in components(folder) if name.startswith("text_encoder")]
        in_encoders = [_modules(folder / encoder) for encoder in encoders]
    except UserError as error:
        yield str(error)
        return
    for site in find_sites(family_named(pipeline).sites, names, pipeline):
        places = in_encoders if site.sees == "text" else [inside]
        if not any(re.fullmatch(site.pattern, name) for names in places for name in names):
            yield f"pruning.site: {site.name} matches no linear of {folder}"


def _modules(component: Path) -> list[str]:
    """Names of a component's modules that have weights, from the headers of its files."""
    from safetensors import SafetensorError, safe_open

    from conceptprune.models.weights import checkpoint_files

    names: list[str] = []
    for path in checkpoint_files(component):
        try:
            with safe_open(path, framework="pt") as stream:
                names += stream.keys()
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path}: is not a safetensors file ({error})") from error
    return [name.removesuffix(".weight") for name in names if name.endswith(".weight")]


def _refuse(path: Path, problems: list[str]) -> None:
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise ManifestError("\n".join([f"{path} has {count}:", *(f"  {one}" for one in problems)]))
