"""All models in all dtypes, then correctness: one JSON, written after each step."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import nn

from benchmarks.gpu import correctness
from benchmarks.gpu.device import MIB, free_memory, let_go, machine, product_rate
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
VARIED = ("sd15", "sdxl")
"""Models that are also measured compiled, in another layout, and offloaded."""


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

    # First, because it takes seconds, and fast but wrong results are worth nothing.
    results["correctness"] = correctness.check(settings) if "correctness" in settings.parts else {}
    write()
    side = SMALL_SIDE if settings.small else PRODUCT_SIDE[settings.device.type]
    results["product_tflops"] = {
        dtype: product_rate(settings.device, DTYPES[dtype], side=side) / 1e12
        for dtype in settings.dtypes
    }
    results["models"] = {name: {dtype: {} for dtype in settings.dtypes} for name in settings.models}
    # The main measurements of every model come before the rest: time may run out.
    for work, dtypes, of in (
        (_measure, settings.dtypes[:1], settings.models),
        (_measure, settings.dtypes[1:], EVERY_DTYPE),
        (_vary, settings.dtypes[:1], VARIED),
    ):
        for dtype in dtypes:
            for name in settings.models:
                if name not in of:
                    continue
                asked = Asked(name, dtype, results["product_tflops"][dtype] * 1e12, settings)
                found = results["models"][name][dtype]
                found |= attempted(partial(work, asked, found))
                let_go()
                write()
    return results


@dataclass(frozen=True, slots=True)
class Asked:
    """One model in one dtype."""

    name: str
    dtype: str
    rate: float
    """Operations a second of matrix products."""
    settings: Settings


def _measure(asked: Asked, found: dict[str, Any]) -> dict[str, Any]:
    """Put speed and erasure into `found`, step by step, so that a failure leaves what was there."""
    settings = asked.settings
    settings.check_time()
    model = _model(asked, found)
    if model is None:
        return {}
    measures = Measures(model, settings)
    found |= measures.weights()
    found["encoding"] = measures.encoding()
    if "speed" in settings.parts:
        found |= measures.operations()
        found["speed"] = measures.speeds(asked.rate, found["tflop"])
        fastest = max(row["collection_evaluations_a_second"] for row in found["speed"])
        found["concept"] = concept_cost(fastest, model.num_branches(GUIDANCE))
    if "erasure" in settings.parts:
        found["erasure"] = attempted(measures.erasure)
    return {}


def _vary(asked: Asked, found: dict[str, Any]) -> dict[str, Any]:
    """Put the other ways to run the model, and to offload it, into `found`."""
    settings = asked.settings
    if not {"variants", "offload"} & set(settings.parts):
        return {}
    settings.check_time()
    model = _model(asked, {})
    if model is None:
        return {}
    if "variants" in settings.parts and "speed" in found:
        # Not the largest batch: attention as plain products takes many times its memory.
        middle = found["speed"][len(found["speed"]) // 2]["prompts"]
        found["variants"] = Measures(model, settings).variants(middle, asked.rate, found["tflop"])
    if "offload" in settings.parts:
        pipe = model.pipe
        for module in pipe.components.values():
            if isinstance(module, nn.Module):
                module.to("cpu")
        del model
        let_go()
        found["offload"] = attempted(lambda: offloads(pipe, DTYPES[asked.dtype], settings))
    return {}


def _model(asked: Asked, found: dict[str, Any]) -> DiffusionModel | None:
    """The model, or None if it does not fit; `found` tells how far it was cut."""
    pipe, resolution = _pipeline(asked.name, DTYPES[asked.dtype], asked.settings, found)
    if pipe is None:
        return None
    model: DiffusionModel = family_named(type(pipe).__name__)(pipe, resolution=resolution)
    return model


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
