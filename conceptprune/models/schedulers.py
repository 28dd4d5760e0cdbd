"""Check, before any work and without the model, that a scheduler is deterministic."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from conceptprune.errors import UserError
from conceptprune.models.components import INDEX, read_index, read_json
from conceptprune.models.families import family_of
from conceptprune.models.other import OtherPipeline
from conceptprune.models.trajectory import Trajectory

TRIED_STEPS = 6
"""Multistep solvers sample their first noise after a step or two."""
LATENTS = (2, 4, 8, 8)


def check_repeatable(folder: Path, override: str | None, steps: int) -> None:
    """Run a model's scheduler (or the class `override` with its config) on noise, twice.

    Raises:
        UserError: the installed diffusers has no such scheduler, it lacks a library, cannot be
            stepped through, or draws noise that no seed decides.
    """
    index = read_index(folder)
    entry = index.get("scheduler")
    if not isinstance(entry, list) or None in entry:
        raise UserError(f"model: {folder / INDEX}: scheduler is {entry}, and must name one")
    # Pipelines of no known family step in ways of their own.
    by_itself = family_of(folder) is not OtherPipeline
    name = override or entry[1]
    where = f"model: {folder / 'scheduler' / 'scheduler_config.json'}: {name}"
    config = read_json(folder / "scheduler" / "scheduler_config.json")
    try:
        first, second = (_stepped(name, config, steps) for _ in range(2))
    # Schedulers raise all kinds of errors for bad settings.
    except Exception as error:
        if by_itself or isinstance(error, ImportError):
            reason = " ".join(str(error).split())
            raise UserError(
                f"{where} cannot be used: {reason}; choose another with collection.scheduler"
            ) from error
        return
    if not first.equal(second):
        raise UserError(
            f"{where} samples noise that no seed controls, so every run would give a "
            "different mask; choose another with collection.scheduler, such as "
            "DPMSolverMultistepScheduler"
        )


def _stepped(name: str, config: dict[str, Any], steps: int) -> Tensor:
    import diffusers

    kind = getattr(diffusers, name, None)
    if kind is None:
        raise ImportError(f"diffusers {diffusers.__version__} has no such scheduler")
    scheduler = kind.from_config(config)
    generators = [torch.Generator().manual_seed(seed) for seed in range(LATENTS[0])]
    noise = torch.randn(LATENTS, generator=torch.Generator().manual_seed(0))
    shift = {"mu": 1.0} if config.get("use_dynamic_shifting") else {}
    trajectory = Trajectory(
        scheduler=scheduler, steps=steps, latents=noise, generators=generators, schedule=shift
    )
    for _ in range(min(TRIED_STEPS, trajectory.num_calls)):
        trajectory.advance(0.1 * trajectory.model_input())
    return trajectory.latents
