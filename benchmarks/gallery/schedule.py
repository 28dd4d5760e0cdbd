"""The learning rate of the autoencoder's and the judge's training."""

import math

LOWEST = 1e-5


def cosine_rate(step: int, num_steps: int, peak: float, warm_up: int) -> float:
    """Linear warm-up, then half a cosine down to LOWEST."""
    rise = min(1.0, (step + 1) / warm_up)
    fall = 0.5 * (1 + math.cos(math.pi * min(1.0, step / num_steps)))
    return peak * rise * fall + LOWEST
