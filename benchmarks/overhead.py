"""What collecting statistics adds to the denoising loop that it watches."""

import time
from collections.abc import Sequence
from statistics import median

from benchmarks.library import as_prompts
from benchmarks.models import CONCEPTS, Subject, compute_bound, minimal, studio
from benchmarks.results import Measurement
from conceptprune.collection.collect import Window, collect_window
from conceptprune.manifest import Collection
from conceptprune.models.base import DiffusionModel
from conceptprune.models.prompt import Prompt
from conceptprune.models.stable_diffusion import StableDiffusion


def run() -> list[Measurement]:
    """On the model where overheads count most, and on the one where they count least."""
    return [
        *measure(studio(), batch_size=12, tau=10, repeats=15),
        *measure(compute_bound(), batch_size=4, tau=2, repeats=7),
    ]


def run_minimal() -> list[Measurement]:
    """On the smallest model, to see that it runs."""
    return measure(minimal(), batch_size=2, tau=1, repeats=1, at_most=None)


def measure(
    subject: Subject, *, batch_size: int, tau: int, repeats: int, at_most: float | None = 3
) -> list[Measurement]:
    """One subject."""
    return [
        paired(
            subject.name,
            StableDiffusion.from_pipeline(subject.pipe),
            as_prompts(subject.target_prompts(CONCEPTS[0])),
            Collection(tau=tau, batch_size=batch_size),
            repeats=repeats,
            at_most=at_most,
        )
    ]


def paired(
    name: str,
    model: DiffusionModel,
    prompts: Sequence[Prompt],
    settings: Collection,
    *,
    repeats: int,
    at_most: float | None,
) -> Measurement:
    """Collection and the bare loop in turn, so that a slow minute slows both."""
    collected, bare = [], []
    # The first round warms caches and is not counted.
    for _ in range(repeats + 1):
        started = time.perf_counter()
        _denoise(model, prompts, settings)
        between = time.perf_counter()
        # With its states: otherwise it would leave the last call early, which the loop does not.
        collect_window(model, prompts, settings, Window(0, settings.tau))
        bare.append(between - started)
        collected.append(time.perf_counter() - between)
    ratios = [watched / alone for watched, alone in zip(collected[1:], bare[1:], strict=True)]
    return Measurement(
        what=f"{name}: collection over the bare loop",
        value=100 * (median(ratios) - 1),
        unit="%",
        at_most=at_most,
        note=f"median of {repeats} pairs; the loop alone {median(bare[1:]):.2f} s",
    )


def _denoise(model: DiffusionModel, prompts: Sequence[Prompt], settings: Collection) -> None:
    """The same denoiser calls as collection makes, with no hook anywhere."""
    for start in range(0, len(prompts), settings.batch_size):
        batch = model.begin(
            prompts[start : start + settings.batch_size],
            steps=settings.steps,
            guidance=settings.guidance,
        )
        model.run(batch, settings.tau, lambda _: None)
