"""How much of everything is measured: all of it on a GPU, little of it elsewhere."""

import time
from dataclasses import dataclass, field

import torch

DTYPES = {dtype: getattr(torch, dtype) for dtype in ("float16", "bfloat16", "float32")}
PROMPTS = 20
"""Prompts a side of a concept, as jobs have it by default."""
CALLS = 10
"""Denoiser calls of each, as jobs have it by default."""


class OutOfTimeError(Exception):
    """The time for the whole benchmark is up: what is not measured by now stays out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is measured, and how long."""

    device: torch.device
    small: bool
    models: tuple[str, ...]
    dtypes: tuple[str, ...]
    calls: int
    most: int
    """Prompts in the largest batch that is tried."""
    repeats: int
    minutes: float
    started: float = field(default_factory=time.monotonic)

    def check_time(self) -> None:
        """Raise `OutOfTimeError` when the minutes are over."""
        if time.monotonic() - self.started > 60 * self.minutes:
            raise OutOfTimeError(f"the {self.minutes:g} minutes were over")
