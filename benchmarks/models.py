"""The models benchmarks run on, and the prompts they are given."""

from dataclasses import dataclass

import torch
from diffusers import StableDiffusionPipeline

from conceptprune.studio import model_path
from conceptprune.studio.names import ARTISTS, THINGS
from tests.support.sd15_shaped import build_pipeline

CONCEPTS = tuple(artist.name for artist in ARTISTS[:10])


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """A pipeline to measure on, and the things that its prompts ask for."""

    name: str
    pipe: StableDiffusionPipeline
    things: tuple[str, ...]

    @property
    def base_prompts(self) -> list[str]:
        """One prompt for each thing, without a concept."""
        return [f"a photo of a {thing}" for thing in self.things]

    def target_prompts(self, concept: str) -> list[str]:
        """The same things with the concept."""
        return [f"a {thing} in the style of {concept}" for thing in self.things]


def studio() -> Subject:
    """The studio model: so small that overheads count."""
    pipe = StableDiffusionPipeline.from_pretrained(model_path(), torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return Subject(name="studio", pipe=pipe, things=THINGS)


def compute_bound(*, num_things: int = 4) -> Subject:
    """SD 1.5 at half its width and half its latents' side: arithmetic is all that counts."""
    pipe = build_pipeline(channels=(160, 320, 640, 640), latent_size=32)
    return Subject(name="compute-bound", pipe=pipe, things=THINGS[:num_things])


def minimal() -> Subject:
    """The smallest model of all, to see that a benchmark runs."""
    return Subject(name="minimal", pipe=build_pipeline(), things=THINGS[:2])
