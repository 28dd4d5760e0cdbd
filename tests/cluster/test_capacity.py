"""The numbers of `cluster/CAPACITY.md`, from the real plan, the real byte counts and the U-Nets.

The U-Nets are built on torch's meta device from their public configurations: all shapes, no
weights, no computation. Their parameter counts are the published ones, so they are those networks.
"""

import re
import tracemalloc
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from rich.filesize import decimal
from torch.utils.flop_counter import FlopCounterMode

from conceptprune.manifest import Manifest
from conceptprune.manifest.model import source_of
from conceptprune.models.sites import SITES, site_linears
from conceptprune.models.source import ModelSettings
from conceptprune.prompts.pairs import prompt_pairs
from conceptprune.units.plan import Plan, build_plan
from conceptprune.units.sizes import Sizes
from conceptprune.units.unit import Unit
from conceptprune.units.units import MaskUnit, StatisticsUnit, WindowUnit

PAGE = (Path(__file__).parents[2] / "cluster" / "CAPACITY.md").read_text(encoding="utf-8")

ARTISTS = 500
PEAK = 989e12
"""Dense float16 operations a second of an H100 SXM."""
UTILISATION = 0.3
START = 360
"""Seconds until a new node computes: instance, image, model."""

CONFIGS: dict[str, dict[str, Any]] = {
    "SD 1.5": {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
    "SDXL": {
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
        "use_linear_projection": True,
    },
}
PARAMETERS = {"SD 1.5": 859_520_964, "SDXL": 2_567_463_684}


@dataclass(frozen=True, kw_only=True)
class Network:
    parameters: int
    flops: int
    """Of one evaluation: one latent, one prompt, one half of guidance."""
    shapes: dict[str, tuple[int, int]]

    @property
    def site_weights(self) -> int:
        return sum(rows * columns for rows, columns in self.shapes.values())

    def hours(self, evaluations: int) -> float:
        return evaluations * self.flops / (PEAK * UTILISATION) / 3600


@cache
def network(name: str) -> Network:
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
    linears = site_linears(unet, SITES["ffn_out"])
    return Network(
        parameters=sum(tensor.numel() for tensor in unet.parameters()),
        flops=counted.get_total_flops(),
        shapes={key: (linear.out_features, linear.in_features) for key, linear in linears.items()},
    )


@cache
def plan(preview: bool = False) -> Plan:
    """The plan of a manifest with 500 artists and nothing but defaults, and deltas."""
    manifest = Manifest.model_validate(
        {
            "version": 1,
            "model": {"hub": "org/name", "revision": "0" * 40},
            "concepts": [{"name": f"artist {n}", "kind": "style"} for n in range(ARTISTS)],
            "outputs": {"deltas": True, "preview": {} if preview else None},
        },
        context={"folder": "/"},
    )
    model = ModelSettings(
        source=source_of(manifest.model),
        identity="0" * 64,
        pipeline="StableDiffusionPipeline",
        dtype="float16",
        device="cuda",
    )
    seed = manifest.collection.seed
    pairs = {concept.name: prompt_pairs(concept, seed=seed) for concept in manifest.concepts}
    return build_plan(manifest, model, pairs)


def evaluations(preview: bool = False) -> int:
    return sum(unit.evaluations for unit in plan(preview).units())


def sizes(of: Network, side: int) -> Sizes:
    return Sizes(
        shapes=of.shapes,
        item_bytes=2,
        latent_numbers=4 * side**2,
        image_bytes=3 * (8 * side) ** 2,
        edited_bytes=0,
        same_bytes=0,
    )


def read_bytes(of: Sizes, units: list[Unit]) -> int:
    """What units read back: sides their windows, masks their sides, deltas their mask."""
    by_key = {unit.key: unit for unit in units}
    return sum(by_key[key].bytes_written(of, by_key) for unit in units for _, key in unit.needs)


def rows() -> dict[str, list[str]]:
    """The page's table, a row for each quantity and a cell for each model."""
    columns = []
    for name, config in CONFIGS.items():
        net = network(name)
        counted = sizes(net, config["sample_size"])
        units = list(plan().units())
        side = next(unit for unit in units if isinstance(unit, StatisticsUnit))
        mask = next(unit for unit in units if isinstance(unit, MaskUnit))
        window = next(iter(plan().of(WindowUnit).values()))
        kinds = {kind: [u for u in units if u.kind == kind] for kind in ("checkpoint", "mask")}
        others = [unit for unit in units if unit.kind in ("window", "statistics")]
        columns.append(
            {
                "U-Net parameters": f"{net.parameters:,}",
                "TFLOP an evaluation": f"{net.flops / 1e12:.3f}",
                "weights of the site": f"{net.site_weights:,}",
                "evaluations": f"{evaluations():,}",
                "PFLOP": f"{evaluations() * net.flops / 1e15:,.0f}",
                "H100-hours of work": f"{net.hours(evaluations()):.2f}",
                "seconds a window unit": f"{3600 * net.hours(window.evaluations):.1f}",
                "statistics of a side": decimal(side.bytes_written(counted, plan().by_key)),
                "a mask, at most": decimal(mask.bytes_written(counted, plan().by_key)),
                "written: windows and sides": decimal(counted.total(others, plan().by_key)),
                "written: masks, at most": decimal(counted.total(kinds["mask"], plan().by_key)),
                "written: deltas": decimal(counted.total(kinds["checkpoint"], plan().by_key)),
                "read back, at most": decimal(read_bytes(counted, units)),
                "with 1 actor: hours": f"{wall(net, 1):.2f}",
                "with 8 actors: hours": f"{wall(net, 8):.2f}",
                "with 8 actors: H100-hours": f"{8 * wall(net, 8):.2f}",
                "evaluations with previews": f"{evaluations(preview=True):,}",
                "H100-hours with previews": f"{net.hours(evaluations(preview=True)):.1f}",
            }
        )
    return {key: [column[key] for column in columns] for key in columns[0]}


def wall(net: Network, actors: int) -> float:
    return net.hours(evaluations()) / actors + START / 3600


@pytest.mark.parametrize("name", CONFIGS)
def test_the_networks_are_the_published_ones(name: str) -> None:
    assert network(name).parameters == PARAMETERS[name]


def test_the_table_is_what_the_formula_gives() -> None:
    lines = [f"| {key} | {' | '.join(cells)} |" for key, cells in rows().items()]
    found = [line for line in PAGE.splitlines() if line.startswith("| ")]
    assert found[1 : 1 + len(lines)] == lines


def test_the_units_of_the_page_are_those_of_the_plan() -> None:
    units = list(plan().units())
    assert f"{len(units):,} units" in PAGE
    windows = len(plan().of(WindowUnit))
    assert f"{windows:,} windows" in PAGE
    assert evaluations() == (ARTISTS + 1) * 20 * 2 * 10


def test_the_assumptions_of_the_page_are_those_of_the_formula() -> None:
    for assumption in (
        f"{PEAK / 1e12:.0f} TFLOP/s",
        f"{UTILISATION:.0%}",
        f"{START // 60} minutes",
    ):
        assert assumption.replace("%", " %") in PAGE
    # The public measurement that the utilisation is compared with: 30 steps of SDXL on an A100.
    measured = 30 * 2 * network("SDXL").flops / 3.31 / 312e12
    assert f"{measured:.0%}".replace("%", " %") in PAGE


def test_the_thresholds_of_the_page_follow_from_the_table() -> None:
    window = next(iter(plan().of(WindowUnit).values()))
    seconds = [3600 * network(name).hours(window.evaluations) for name in CONFIGS]
    busy = [second / (4 * 0.002) for second in seconds]
    assert f"that is {busy[0]:.0f} for SD 1.5 and {busy[1]:.0f} for SDXL" in PAGE
    assert 100 / seconds[0] * 4 * 4 == pytest.approx(1500, rel=0.05)
    deltas = [2 * network(name).site_weights / 1e6 for name in CONFIGS]
    assert f"{deltas[0]:.0f} MB (SD 1.5) or {deltas[1]:.0f} MB (SDXL)" in PAGE


def test_the_plan_takes_the_memory_the_page_says() -> None:
    plan.cache_clear()
    tracemalloc.start()
    plan()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held / ARTISTS == pytest.approx(10_000, rel=0.3)


def test_the_drivers_time_in_the_text_is_that_of_the_table() -> None:
    (row,) = re.findall(
        r"^\| driver's processor time, ms a unit \|(.+)\|$", PAGE, flags=re.MULTILINE
    )
    times = [float(cell) for cell in row.split("|")]
    assert f"({min(times)} to {max(times)} measured, see below)" in PAGE
