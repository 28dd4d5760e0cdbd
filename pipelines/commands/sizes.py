"""Bytes that units of work write, told from shapes and file headers before anything runs."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from safetensors import safe_open

from conceptprune.checkpoints.files import folder_files
from conceptprune.masks.fusion import Budget
from conceptprune.models.families import components, denoiser_of, family_named
from conceptprune.models.sites import Site, find_sites, join_layer
from conceptprune.models.weights import checkpoint_files
from conceptprune.prompts.pairs import prompt_pairs
from conceptprune.units.plan import Plan, collection_settings
from conceptprune.units.units import (
    AnyUnit,
    CheckpointUnit,
    FusedMaskUnit,
    GeneratedPromptsUnit,
    MaskUnit,
    PreviewUnit,
    PromptsUnit,
    StatisticsUnit,
    SweepTableUnit,
    SweepUnit,
    WindowUnit,
)

from ..jobs.preparation import Prepared

# What files hold beside their numbers, roughly.
TABLE_BYTES = 4096
TABLE_ROW_BYTES = 64
HEADER_BYTES = 2048
HEADER_LAYER_BYTES = 400

GENERATOR_BYTES = 5056
"""State of a torch CPU generator; each prompt has one."""
LATENTS_KEPT = 7
"""Latents a window hands on, at most: PNDM keeps a sample and five predictions beside them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Bytes that units write, from shapes alone; of masks and states, as many as there may be."""

    shapes: Mapping[str, tuple[int, int]]
    """(rows, columns) of the site's linears, by module name."""
    item_bytes: int
    """Of a weight or latent in the collection's dtype."""
    latent_numbers: int
    image_bytes: int
    edited_bytes: int
    """Files of a pipeline folder that hold weights of the site: each checkpoint has its own."""
    same_bytes: int
    """The other files, which all checkpoints share."""

    @classmethod
    def of(cls, prepared: Prepared) -> "Sizes":
        """Read file headers and configs of the model."""
        folder = prepared.model.source.folder()
        family = family_named(prepared.model.pipeline)
        denoiser = denoiser_of(folder)
        component = folder / denoiser
        shapes: dict[str, tuple[int, int]] = {}
        edited: list[Path] = []
        encoders = [name for name in components(folder) if name.startswith("text_encoder")]
        sites = collection_settings(prepared.manifest).sites
        for site in find_sites(family.sites, sites, prepared.model.pipeline):
            for part in encoders if site.sees == "text" else [denoiser]:
                found, files = _site_of(folder / part, site)
                shapes |= {join_layer(part, name, denoiser): found[name] for name in found}
                edited += [path for path in files if path not in edited]
        config = json.loads((component / "config.json").read_text(encoding="utf-8"))
        vae = json.loads((folder / "vae" / "config.json").read_text(encoding="utf-8"))
        scale = 2 ** (len(vae["block_out_channels"]) - 1)
        side = prepared.model.resolution and prepared.model.resolution // scale
        height, width = (side, side) if side else family.default_size(config)
        dtype: torch.dtype = getattr(torch, prepared.model.dtype)
        every_file = sum(path.stat().st_size for path in folder_files(folder))
        edited_bytes = sum(path.stat().st_size for path in edited)
        return cls(
            shapes=shapes,
            item_bytes=dtype.itemsize,
            latent_numbers=family.latent_channels(config) * height * width,
            image_bytes=3 * height * width * scale**2,
            edited_bytes=edited_bytes,
            same_bytes=every_file - edited_bytes,
        )

    def total(self, units: Iterable[AnyUnit], plan: Plan) -> int:
        """Bytes of several units; what their checkpoints share is counted once."""
        units = list(units)
        shared = any(isinstance(unit, CheckpointUnit) and unit.form == "pipeline" for unit in units)
        return sum(self.of_unit(unit, plan) for unit in units) + shared * self.same_bytes

    def of_unit(self, unit: AnyUnit, plan: Plan) -> int:
        """Bytes of one unit's own objects."""
        match unit:
            case PromptsUnit():
                return _prompts_bytes(unit)
            case GeneratedPromptsUnit(generator=generator):
                rows = 2 * TABLE_BYTES + 2 * TABLE_ROW_BYTES * generator.per_concept
                return rows + len(unit.generator.question(unit.concept).encode())
            case WindowUnit(window=window):
                partial = self._statistics(window.stop - window.start)
                return partial if unit.last else partial + self._state(len(unit.prompts))
            case StatisticsUnit():
                return self._statistics(plan.settings.tau)
            case MaskUnit():
                return self._mask(self._entries(unit, plan.settings.tau))
            case FusedMaskUnit():
                masks = (concept.mask for concept in plan.concepts)
                entries = sum(self._entries(mask, plan.settings.tau) for mask in masks)
                if isinstance(unit.fusion, Budget):
                    entries = min(entries, int(unit.fusion.fraction * self._weights))
                return self._mask(entries)
            case SweepUnit(settings=settings):
                return TABLE_BYTES + len(settings) * self._sweep_row
            case SweepTableUnit(sweeps=sweeps):
                rows = sum(len(unit.settings) for c in plan.concepts for unit in c.sweeps)
                return (TABLE_BYTES if sweeps else 0) + rows * self._sweep_row
            case CheckpointUnit(form="delta"):
                return self.item_bytes * self._weights + self._header
            case CheckpointUnit():
                return self.edited_bytes
            case PreviewUnit():
                return TABLE_BYTES + len(unit.prompts) * (self.image_bytes + TABLE_ROW_BYTES)

    def _statistics(self, calls: int) -> int:
        numbers = 2 * calls * sum(columns for _, columns in self.shapes.values())
        return 8 * numbers + TABLE_BYTES + TABLE_ROW_BYTES * calls * len(self.shapes)

    def _state(self, prompts: int) -> int:
        return prompts * (GENERATOR_BYTES + LATENTS_KEPT * self.item_bytes * self.latent_numbers)

    def _entries(self, mask: MaskUnit, collected: int) -> int:
        """The most entries that the settings allow."""
        tau = mask.selection.tau or collected
        return sum(
            mask.selection.most_entries(rows, columns, tau)
            for rows, columns in self.shapes.values()
        )

    def _mask(self, entries: int) -> int:
        """One byte an entry and one for each gap of 255: 1.01 to 1.05 bytes an entry, as a rule."""
        return min(entries, self._weights) + self._weights // 255 + self._header

    @property
    def _sweep_row(self) -> int:
        return TABLE_ROW_BYTES * (2 + len(self.shapes))

    @property
    def _weights(self) -> int:
        return sum(map(prod, self.shapes.values()))

    @property
    def _header(self) -> int:
        return HEADER_BYTES + HEADER_LAYER_BYTES * len(self.shapes)


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


def _prompts_bytes(unit: PromptsUnit) -> int:
    pairs = (pair for concept in unit.concepts for pair in prompt_pairs(concept, seed=unit.seed))
    texts = (pair.base.text + pair.target.text for pair in pairs)
    return TABLE_BYTES + sum(TABLE_ROW_BYTES + len(text.encode()) for text in texts)
