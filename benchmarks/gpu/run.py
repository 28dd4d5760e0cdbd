"""All models in all dtypes, then correctness: one JSON, written after each step."""

import gc
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import nn

from benchmarks.gpu import correctness
from benchmarks.gpu.device import MIB, free_memory, machine, product_rate
from benchmarks.gpu.measures import GUIDANCE, Measures, attempted, concept_cost, offloads
from benchmarks.gpu.settings import DTYPES, Settings
from benchmarks.gpu.shapes import SHAPES
from conceptprune.models.base import DiffusionModel
from conceptprune.models.families import family_named
from tests.support.tiny_models import TINY_MODELS

FORMAT = "gpu/1"
TINY = {"sd15": "sd1", "sdxl": "sdxl", "sd3": "sd3", "flux": "flux-dev"}
"""The tiny model that stands in with --small, by the name of the real one."""
PRODUCT_SIDE = {"cuda": 8192, "cpu": 2048}
SMALL_SIDE = 128
EVERY_DTYPE = ("sd15", "sdxl")
"""Models that are measured in all dtypes; the others in the first one only."""
OFFLOADED = ("sd15", "sdxl")


def run(settings: Settings, out: Path) -> dict[str, Any]:
    """Measure everything, writing to `out` as it goes."""
    results: dict[str, Any] = {
        "format": FORMAT,
        "machine": machine(settings.device),
        "small": settings.small,
        "calls": settings.calls,
    }

    def write() -> None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(results, indent=2) + "\n")

    # First: a few seconds, and what is fast but wrong is worth nothing.
    results["correctness"] = correctness.check(settings)
    write()
    side = SMALL_SIDE if settings.small else PRODUCT_SIDE[settings.device.type]
    results["product_tflops"] = {
        dtype: product_rate(settings.device, DTYPES[dtype], side=side) / 1e12
        for dtype in settings.dtypes
    }
    results["models"] = {name: {} for name in settings.models}
    # The first dtype of every model before the others: time may run out.
    for number, dtype in enumerate(settings.dtypes):
        for name in settings.models:
            if number and name not in EVERY_DTYPE:
                continue
            rate = results["product_tflops"][dtype] * 1e12
            results["models"][name][dtype] = found = {}
            measured = attempted(
                lambda name=name, dtype=dtype, rate=rate, found=found: _measure(
                    name, dtype, rate, settings, found, first=dtype == settings.dtypes[0]
                )
            )
            found.update(measured or {})
            _let_go()
            write()
    return results


def _measure(
    name: str,
    dtype: str,
    rate: float,
    settings: Settings,
    found: dict[str, Any],
    *,
    first: bool,
) -> None:
    """Put what is found of one model in one dtype into `found`, step by step."""
    settings.check_time()
    pipe, resolution = _pipeline(name, DTYPES[dtype], settings, found)
    if pipe is None:
        return
    model: DiffusionModel = family_named(type(pipe).__name__)(pipe, resolution=resolution)
    measures = Measures(model, settings)
    found |= measures.weights()
    found["encoding"] = measures.encoding()
    found |= measures.operations()
    found["speed"] = measures.speeds(rate, found["tflop"])
    found["erasure"] = attempted(measures.erasure)
    fastest = max(row["collection_evaluations_a_second"] for row in found["speed"])
    selecting = found["erasure"].get("select_seconds", 0.0)
    found["concept"] = concept_cost(fastest, model.halves(GUIDANCE), selecting)
    if not first:
        return
    largest = found["speed"][-1]["prompts"]
    found["variants"] = attempted(lambda: measures.variants(largest, rate, found["tflop"]))
    if name in OFFLOADED:
        for module in pipe.components.values():
            if isinstance(module, nn.Module):
                module.to("cpu")
        del model, measures
        _let_go()
        found["offload"] = attempted(lambda: offloads(pipe, DTYPES[dtype], settings))


def _pipeline(
    name: str, dtype: torch.dtype, settings: Settings, found: dict[str, Any]
) -> tuple[DiffusionPipeline | None, int | None]:
    """(pipeline, side of its images in pixels), cut to half of the device's free memory."""
    if settings.small:
        (tiny,) = (model for model in TINY_MODELS if model.name == TINY[name])
        return tiny.pipeline().to(settings.device, dtype), tiny.resolution
    shape = SHAPES[name]
    room = free_memory(settings.device) // 2
    config = shape.fitting(room, dtype)
    if config is None:
        found["skipped"] = f"its weights take more than {room // MIB} MiB, half of what is free"
        return None, None
    found["cut"] = {key: [config[key], shape.config[key]] for key in shape.cut}
    return shape.build(config, dtype, settings.device), None


def _let_go() -> None:
    """Give the device's memory back."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
