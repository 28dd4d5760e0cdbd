"""Writes cluster/CAPACITY.md: `python -m benchmarks.capacity`.

Its numbers come from the job's own plan and byte counts, from the two U-Nets, which are built from
their public configurations on torch's meta device (all shapes, no weights, no computation), and
from what `python -m benchmarks gpu` has measured. Its text is in capacity.md.jinja.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich.filesize import decimal
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.cli import RESULTS
from benchmarks.gpu.shapes import SD15_UNET, SDXL_UNET, SHAPES
from conceptprune.edits.projections import PROMPT_SITES
from conceptprune.manifest import Manifest, Method
from conceptprune.manifest.model_settings import ModelSettings
from conceptprune.models.sites import SITES, site_linears
from conceptprune.prompts.pairs import prompt_pairs
from conceptprune.units.plan import Plan, build_plan
from conceptprune.units.sizes import Sizes
from conceptprune.units.unit import Unit
from conceptprune.units.units import MaskUnit, StatisticsUnit, WindowUnit

PAGE = Path(__file__).parents[1] / "cluster" / "CAPACITY.md"
TEMPLATE = "capacity.md.jinja"

ARTISTS = 500
PEAK = 989e12
"""Dense float16 operations a second of an H100 SXM."""
UTILISATION = 0.3
START = 360
"""Seconds until a new node computes: instance, image, model."""
DRIVER_SECONDS = 0.002
"""Driver time per unit, as measured on the page."""
SQUARES = 18
"""Squares of the encoded prompt's width that rewording has in memory at once, as the resident set
grew at SDXL's width: the sums so far, the next ones and their file, and the equation's sides."""
UNITS_A_WINDOW = 4
"""A window brings a reduction, a mask and a delta."""
CONFIGS: Mapping[str, Mapping[str, Any]] = {"SD 1.5": SD15_UNET, "SDXL": SDXL_UNET}


@dataclass(frozen=True, kw_only=True)
class Network:
    """A U-Net as the formula sees it."""

    parameters: int
    flops: int
    """Per evaluation: one latent, one prompt, one guidance branch."""
    shapes: dict[str, tuple[int, int]]
    """Of the default site's linears."""
    prompt_shapes: dict[str, tuple[int, int]]
    """Of cross-attention's keys and values, which rewording edits."""

    @property
    def site_weights(self) -> int:
        """Number of weights of the default site."""
        return sum(rows * columns for rows, columns in self.shapes.values())

    def hours(self, evaluations: int) -> float:
        """Hours on one H100."""
        return evaluations * self.flops / (PEAK * UTILISATION) / 3600


@cache
def network(name: str) -> Network:
    """The U-Net of that name in `CONFIGS`."""
    config = CONFIGS[name]
    side, width = config["sample_size"], config["cross_attention_dim"]
    with torch.device("meta"), torch.no_grad():
        unet = UNet2DConditionModel(**config).eval()
        added = {"text_embeds": torch.empty(1, 1280), "time_ids": torch.empty(1, 6)}
        with FlopCounterMode(display=False) as counted:
            unet(
                torch.empty(1, 4, side, side),
                torch.tensor(1.0),
                torch.empty(1, 77, width),
                added_cond_kwargs=added if name == "SDXL" else None,
            )

    def shapes(*names: str) -> dict[str, tuple[int, int]]:
        linears = [item for site in names for item in site_linears(unet, SITES[site]).items()]
        return {key: (linear.out_features, linear.in_features) for key, linear in linears}

    return Network(
        parameters=sum(tensor.numel() for tensor in unet.parameters()),
        flops=counted.get_total_flops(),
        shapes=shapes("ffn_out"),
        prompt_shapes=shapes(*PROMPT_SITES),
    )


@cache
def plan(preview: bool = False, method: Method = "conceptprune") -> Plan:
    """The plan of a manifest with 500 artists and deltas, and otherwise only defaults."""
    manifest = Manifest.model_validate(
        {
            "version": 1,
            "method": method,
            "model": {"hub": "org/name", "revision": "0" * 40},
            "concepts": [{"name": f"artist {n}", "kind": "style"} for n in range(ARTISTS)],
            "outputs": {"deltas": True, "preview": {} if preview else None},
        },
        context={"folder": "/"},
    )
    model = ModelSettings(
        source=manifest.model,
        identity="0" * 64,
        pipeline="StableDiffusionPipeline",
        dtype="float16",
        device="cuda",
    )
    seed = manifest.collection.seed
    pairs = {concept.name: prompt_pairs(concept, seed=seed) for concept in manifest.concepts}
    return build_plan(manifest, model, pairs)


@cache
def evaluations(preview: bool = False) -> int:
    """Denoiser evaluations of the whole plan."""
    return sum(unit.evaluations for unit in plan(preview).units())


def page() -> str:
    """The whole page."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    return environment.get_template(TEMPLATE).render(**values())


def values() -> dict[str, Any]:
    """The values of the template."""
    windows = plan().of(WindowUnit)
    window = next(iter(windows.values()))
    seconds = {name: 3600 * network(name).hours(window.evaluations) for name in CONFIGS}
    found = measured()
    return {
        "artists": ARTISTS,
        "units": f"{len(list(plan().units())):,}",
        "windows": f"{len(windows):,}",
        "peak": f"{PEAK / 1e12:.0f}",
        "utilisation": f"{100 * UTILISATION:.0f}",
        # The public measurement of diffusers' documentation: 30 steps, both branches, on an A100.
        "published": f"{100 * 30 * 2 * network('SDXL').flops / 3.31 / 312e12:.0f}",
        "start": START // 60,
        "networks": tuple(CONFIGS),
        "rows": rows(seconds),
        "seconds": seconds,
        "busy": {name: s / (UNITS_A_WINDOW * DRIVER_SECONDS) for name, s in seconds.items()},
        "units_a_window": UNITS_A_WINDOW,
        "driver_ms": 1000 * DRIVER_SECONDS,
        "deltas": {name: 2 * network(name).site_weights / 1e6 for name in CONFIGS},
        "requests": round(100 / seconds["SD 1.5"] * UNITS_A_WINDOW * 4, -2),
        "measured": found,
        "on_gpu": any(row["type"] == "cuda" for row in found),
    }


def rows(seconds: Mapping[str, float]) -> dict[str, Sequence[str]]:
    """The page's table, a row for each quantity and a cell for each model."""
    units = list(plan().units())
    side = next(unit for unit in units if isinstance(unit, StatisticsUnit))
    mask = next(unit for unit in units if isinstance(unit, MaskUnit))
    kinds = {kind: [u for u in units if u.kind == kind] for kind in ("checkpoint", "mask")}
    others = [unit for unit in units if unit.kind in ("window", "statistics")]
    reworded = plan(method="reword")
    sums = [unit for unit in reworded.units() if unit.kind in ("shift", "moments", "vocabulary")]
    columns = []
    for name, config in CONFIGS.items():
        net = network(name)
        counted = _sizes(net, config["sample_size"])
        columns.append(
            {
                "U-Net parameters": f"{net.parameters:,}",
                "TFLOP an evaluation": f"{net.flops / 1e12:.3f}",
                "weights of the site": f"{net.site_weights:,}",
                "evaluations": f"{evaluations():,}",
                "PFLOP": f"{evaluations() * net.flops / 1e15:,.0f}",
                "H100-hours of work": f"{net.hours(evaluations()):.2f}",
                "seconds a window unit": f"{seconds[name]:.1f}",
                "statistics of a side": decimal(side.bytes_written(counted, plan().by_key)),
                "a mask, at most": decimal(mask.bytes_written(counted, plan().by_key)),
                "written: windows and sides": decimal(counted.total(others, plan().by_key)),
                "written: masks, at most": decimal(counted.total(kinds["mask"], plan().by_key)),
                "written: deltas": decimal(counted.total(kinds["checkpoint"], plan().by_key)),
                "rewording: sums of a concept": decimal(counted.second_moments(2)),
                "rewording: all sums": decimal(counted.total(sums, reworded.by_key)),
                "rewording: memory of the solution": decimal(SQUARES * counted.second_moments(1)),
                "rewording: its delta": decimal(counted.prompt_delta()),
                "read back, at most": decimal(_read_bytes(counted, units)),
                "with 1 actor: hours": f"{_wall(net, 1):.2f}",
                "with 8 actors: hours": f"{_wall(net, 8):.2f}",
                "with 8 actors: H100-hours": f"{8 * _wall(net, 8):.2f}",
                "evaluations with previews": f"{evaluations(preview=True):,}",
                "H100-hours with previews": f"{net.hours(evaluations(preview=True)):.1f}",
            }
        )
    return {key: [column[key] for column in columns] for key in columns[0]}


def measured() -> list[dict[str, str]]:
    """A row for each model and dtype that was measured at real sizes, by device."""
    return [
        row
        for path in sorted(RESULTS.glob("*.json"))
        for row in measured_rows(json.loads(path.read_text(encoding="utf-8")))
    ]


def measured_rows(results: Mapping[str, Any]) -> list[dict[str, str]]:
    """The rows of one run of `python -m benchmarks gpu`; none if it was run with --small."""
    if results["small"]:
        return []
    return [
        _measured_row(results["machine"], name, dtype, found)
        for name, dtypes in results["models"].items()
        for dtype, found in dtypes.items()
        if "concept" in found
    ]


def _measured_row(
    machine: Mapping[str, Any], name: str, dtype: str, measures: Mapping[str, Any]
) -> dict[str, str]:
    fastest = max(measures["speed"], key=lambda row: row["collection_evaluations_a_second"])
    cut = any(have != whole for have, whole in measures.get("cut", {}).values())
    return {
        "type": machine["type"],
        "device": machine["device"],
        "model": SHAPES[name].title + (", cut" if cut else ""),
        "dtype": dtype,
        "prompts": str(fastest["prompts"]),
        "bare": f"{fastest['bare_evaluations_a_second']:.3g}",
        "collection": f"{fastest['collection_evaluations_a_second']:.3g}",
        "share": f"{100 * fastest['share_of_product_rate']:.0f}",
        "peak": f"{fastest['collection_peak_mib']:,.0f}",
        "edit": _edit(measures.get("erasure", {})),
        "concept": f"{measures['concept']['collection_seconds']:,.0f}",
        # Sides of all artists, and one of the base prompts.
        "hours": f"{(ARTISTS + 1) * measures['concept']['device_hours']:,.1f}",
    }


def _edit(found: Mapping[str, Any]) -> str:
    """What one mask costs once its statistics are collected."""
    if "mask_bytes" not in found:
        return "-"
    return (
        f"{found['select_seconds']:.1f} s to select, {found['mask_bytes'] / 1000:,.0f} kB, "
        f"{found['apply_seconds']:.2f} s to apply, {found['remove_seconds']:.2f} s to remove"
    )


def _sizes(of: Network, side: int) -> Sizes:
    return Sizes(
        shapes=of.shapes,
        item_bytes=2,
        latent_numbers=4 * side**2,
        image_bytes=3 * (8 * side) ** 2,
        edited_bytes=0,
        same_bytes=0,
        prompt_width=next(columns for _, columns in of.prompt_shapes.values()),
        prompt_weights=sum(rows * columns for rows, columns in of.prompt_shapes.values()),
    )


def _read_bytes(of: Sizes, units: Sequence[Unit]) -> int:
    """What units read back: sides their windows, masks their sides, deltas their mask."""
    by_key = {unit.key: unit for unit in units}
    return sum(by_key[key].bytes_written(of, by_key) for unit in units for _, key in unit.needs)


def _wall(net: Network, actors: int) -> float:
    return net.hours(evaluations()) / actors + START / 3600


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
