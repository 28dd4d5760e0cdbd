"""Selecting one concept's mask at SD 1.5's real shapes, and the file it becomes."""

import tempfile
import time
from pathlib import Path

import torch

from benchmarks import sd15
from benchmarks.process import PeakMemory, in_own_process
from benchmarks.results import Measurement
from conceptprune.masks.mask import load_mask
from conceptprune.masks.selectors import named_selector, select_mask

SPARSITY = 0.01


def run() -> list[Measurement]:
    """With the paper's settings: k = 1 %, the first ten calls."""
    return in_own_process(measure, num_calls=10)


def run_minimal() -> list[Measurement]:
    """With one layer and one call, to see that it runs."""
    return measure(num_calls=1, num_layers=1)


def measure(*, num_calls: int, num_layers: int = len(sd15.SHAPES)) -> list[Measurement]:
    """Select, save, load and apply one mask."""
    weights = sd15.make_weights(num_layers=num_layers)
    evidence = sd15.make_evidence(num_calls=num_calls, num_layers=num_layers)
    num_weights = sum(weight.numel() for weight in weights.values())

    memory = PeakMemory()
    started = time.perf_counter()
    mask = select_mask(
        weights,
        evidence,
        named_selector("conceptprune", sparsity=SPARSITY),
        concept="synthetic",
        component="unet",
        provenance={},
    )
    select_seconds = time.perf_counter() - started
    peak = memory.mib()

    site = sd15.Site(weights)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mask.safetensors"
        mask.save(path)
        num_bytes = path.stat().st_size
        started = time.perf_counter()
        loaded = load_mask(path)
        loaded.apply(site)
        apply_seconds = time.perf_counter() - started
        started = time.perf_counter()
        loaded.remove(site)
        remove_seconds = time.perf_counter() - started

    hashing = []
    for dtype in (torch.float16, torch.float32, torch.bfloat16):
        site.to(dtype)
        started = time.perf_counter()
        # It does little but hash; `apply` begins with it.
        loaded.check(site)
        hashing.append((dtype, time.perf_counter() - started))

    return [
        Measurement(
            what="select a mask",
            value=select_seconds,
            unit="s",
            at_most=15,
            note=f"{num_weights / 1e6:.1f} M weights, {num_calls} calls",
        ),
        Measurement(
            what="peak memory above weights and statistics", value=peak, unit="MiB", at_most=1536
        ),
        Measurement(
            what="mask file",
            value=num_bytes / 1e6,
            unit="MB",
            at_most=2.5,
            note=f"{mask.num_entries} entries, {num_bytes / mask.num_entries:.2f} bytes each",
        ),
        Measurement(what="load and apply", value=apply_seconds, unit="s", at_most=1),
        Measurement(what="remove", value=remove_seconds, unit="s"),
        *(
            Measurement(
                what=f"of apply: hash the weights in {str(dtype).removeprefix('torch.')}",
                value=seconds,
                unit="s",
                note=f"{num_weights / seconds / 1e6:.0f} M weights a second",
            )
            for dtype, seconds in hashing
        ),
    ]
