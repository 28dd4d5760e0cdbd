"""What is measured, how much of it, and for how long."""

import time
from dataclasses import dataclass, field

import torch

DTYPES = {dtype: getattr(torch, dtype) for dtype in ("float16", "bfloat16", "float32")}
PROMPTS = 20
"""Prompts per side of a concept, the default of jobs."""
CALLS = 10
"""Denoiser calls per prompt, the default of jobs."""
PARTS = ("correctness", "speed", "erasure", "variants", "offload")
"""What can be measured; each part can be run alone."""


class OutOfTimeError(Exception):
    """The time for the whole benchmark is up: what is not yet measured is skipped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is measured, and for how long."""

    device: torch.device
    small: bool
    models: tuple[str, ...]
    dtypes: tuple[str, ...]
    parts: tuple[str, ...]
    """Some of `PARTS`."""
    calls: int
    most: int
    """Prompts in the largest batch that is tried."""
    repeats: int
    seconds: float
    """For the loops of one batch size; if they would take longer, fewer calls are made."""
    minutes: float
    started: float = field(default_factory=time.monotonic)

    def check_time(self, needs: float = 0) -> None:
        """Raise `OutOfTimeError` if fewer than `needs` seconds of `minutes` are left."""
        if time.monotonic() - self.started + needs > 60 * self.minutes:
            raise OutOfTimeError(f"too little was left of the {self.minutes:g} minutes")
