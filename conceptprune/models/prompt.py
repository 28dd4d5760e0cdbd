"""A prompt."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """The text of an image to generate, and the seed of its initial noise."""

    text: str
    seed: int
