"""How much of everything is measured: all of it on a GPU, little of it elsewhere."""

import time
from dataclasses import dataclass, field

import torch

DTYPES = {dtype: getattr(torch, dtype) for dtype in ("float16", "bfloat16", "float32")}
PROMPTS = 20
"""Prompts a side of a concept, as jobs have it by default."""
CALLS = 10
"""Denoiser calls of each, as jobs have it by default."""
PARTS = ("correctness", "speed", "erasure", "variants", "offload")
"""What can be measured, each alone where the time is short."""


class OutOfTimeError(Exception):
    """The time for the whole benchmark is up: what is not measured by now stays out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is measured, and how long."""

    device: torch.device
    small: bool
    models: tuple[str, ...]
    dtypes: tuple[str, ...]
    parts: tuple[str, ...]
    """Of `PARTS`."""
    calls: int
    most: int
    """Prompts in the largest batch that is tried."""
    repeats: int
    seconds: float
    """For the loops of one batch size: where they take longer, fewer calls are made."""
    minutes: float
    started: float = field(default_factory=time.monotonic)

    def check_time(self, needs: float = 0) -> None:
        """Raise `OutOfTimeError` when fewer than `needs` seconds of the minutes are left."""
        if time.monotonic() - self.started + needs > 60 * self.minutes:
            raise OutOfTimeError(f"too little was left of the {self.minutes:g} minutes")
