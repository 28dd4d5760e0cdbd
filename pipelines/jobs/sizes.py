"""Sizes of a model, from shapes and file headers, before anything runs."""

import re
from pathlib import Path

import torch
from safetensors import safe_open

from conceptprune.checkpoints.files import folder_files
from conceptprune.edits.projections import PROMPT_SITES
from conceptprune.models.components import read_json
from conceptprune.models.families import components, denoiser_of, family_named
from conceptprune.models.sites import Site, find_sites, join_layer
from conceptprune.models.weights import checkpoint_files
from conceptprune.units.sizes import Sizes

from .preparation import Prepared


def sizes_of(prepared: Prepared) -> Sizes:
    """Read file headers and configs of the model."""
    folder = prepared.model.folder()
    family = family_named(prepared.model.pipeline)
    denoiser = denoiser_of(folder)
    component = folder / denoiser
    shapes: dict[str, tuple[int, int]] = {}
    edited: list[Path] = []
    encoders = [name for name in components(folder) if name.startswith("text_encoder")]
    sites = prepared.manifest.pruning.sites
    for site in find_sites(family.sites, sites, prepared.model.pipeline):
        for part in encoders if site.sees == "text" else [denoiser]:
            found, files = _site_of(folder / part, site)
            shapes |= {join_layer(part, name, denoiser): found[name] for name in found}
            edited += [path for path in files if path not in edited]
    prompt_shapes = {
        name: shape
        for name in PROMPT_SITES
        if name in family.sites
        for name, shape in _site_of(component, family.sites[name])[0].items()
    }
    config = read_json(component / "config.json")
    vae = read_json(folder / "vae" / "config.json")
    scale = 2 ** (len(vae["block_out_channels"]) - 1)
    side = prepared.model.resolution and prepared.model.resolution // scale
    height, width = (side, side) if side else family.default_size(config)
    dtype: torch.dtype = getattr(torch, prepared.model.dtype)
    every_file = sum(path.stat().st_size for path in folder_files(folder))
    edited_bytes = sum(path.stat().st_size for path in edited)
    return Sizes(
        shapes=shapes,
        item_bytes=dtype.itemsize,
        latent_numbers=family.latent_channels(config) * height * width,
        image_bytes=3 * height * width * scale**2,
        edited_bytes=edited_bytes,
        same_bytes=every_file - edited_bytes,
        prompt_width=max((columns for _, columns in prompt_shapes.values()), default=0),
        prompt_weights=sum(rows * columns for rows, columns in prompt_shapes.values()),
    )


def _site_of(component: Path, site: Site) -> tuple[dict[str, tuple[int, int]], list[Path]]:
    """Shapes of the site's weights, and the files they are in."""
    pattern = re.compile(f"(?:{site.pattern})" + r"\.weight")
    shapes: dict[str, tuple[int, int]] = {}
    files = []
    for path in checkpoint_files(component):
        with safe_open(path, framework="pt") as stream:
            found = [key for key in stream.keys() if pattern.fullmatch(key)]  # noqa: SIM118
            for key in found:
                name = key.removesuffix(".weight")
                rows, columns = stream.get_slice(key).get_shape()
                shapes[name] = (rows, columns - site.first_column(name, (rows, columns)))
        files += [path] if found else []
    return shapes, files
