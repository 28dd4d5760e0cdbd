"""Attacks that only draw: the prompts as asked, or those of a published set."""

from conceptprune.attacks.attempts import Attempt, Scene
from conceptprune.manifest.fields import Line, Positive, Section, Seed


class Unattacked(Section):
    """No settings: the asked prompts are drawn as they are."""


class PromptFile(Section):
    """A set of prompts in a CSV file (`prompt_files.read_prompts`)."""

    file: Line
    """Path of the CSV."""
    limit: Positive | None = None
    """At most so many prompts, from the first on."""
    seed: Seed = 0
    """Of prompts whose file has no seeds."""


def drawn(scene: Scene, settings: Unattacked | PromptFile) -> list[Attempt]:
    """Draw each asked prompt once; those of a prompt file are the scene's."""
    return [
        Attempt(
            asked=asked.text,
            prompt=asked.text,
            seed=asked.seed,
            success=bool(success),
            pictures=1,
            steps=0,
        )
        for asked, success in zip(scene.asked, scene.draw(scene.asked), strict=True)
    ]
