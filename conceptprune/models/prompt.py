"""A prompt: what a model is asked for."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A text to generate an image of, and the seed of the noise to start from."""

    text: str
    seed: int
