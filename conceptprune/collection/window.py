"""Which denoiser calls are used; light to import."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Window:
    """Denoiser calls `start` (included) to `stop` (excluded)."""

    start: int
    stop: int
