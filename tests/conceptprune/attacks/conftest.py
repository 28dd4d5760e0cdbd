"""The studio model, its images of one artist, and its judge: shared by the attacks' tests."""

from collections.abc import Callable

import numpy as np
import pytest

from conceptprune.attacks.attempts import Generation, Scene
from conceptprune.models.generate import Images
from conceptprune.models.prompt import Prompt
from conceptprune.models.stable_diffusion import StableDiffusion
from conceptprune.prompts.pairs import PromptPair
from conceptprune.studio import model_path
from conceptprune.studio.judge import Judge
from conceptprune.studio.names import ARTISTS, THINGS

ARTIST = 4
STEPS = 8
"""Fewer than for show: the judge knows the artist all the same."""


@pytest.fixture(scope="package")
def studio() -> StableDiffusion:
    """The studio model; tests leave its weights as they found them."""
    return StableDiffusion.load(model_path())


@pytest.fixture(scope="package")
def asked() -> tuple[Prompt, ...]:
    name = ARTISTS[ARTIST].name
    return tuple(
        Prompt(text=f"a {thing} in the style of {name}", seed=70 + index)
        for index, thing in enumerate(THINGS[:2])
    )


@pytest.fixture(scope="package")
def base_images(studio: StableDiffusion, asked: tuple[Prompt, ...]) -> Images:
    """What the whole model generates of `asked`."""
    images: Images = studio.generate(asked, steps=STEPS, guidance=5.0).numpy()
    return images


@pytest.fixture(scope="package")
def scene_of(
    studio: StableDiffusion, asked: tuple[Prompt, ...], base_images: Images
) -> Callable[..., Scene]:
    """A scene on the whole model; its asked prompts can be replaced."""
    judge = Judge.load()
    plain = tuple(f"a photo of a {thing}" for thing in THINGS[:2])

    def make(prompts: tuple[Prompt, ...] = asked) -> Scene:
        return Scene(
            model=studio,
            concept=ARTISTS[ARTIST].name,
            plain=plain,
            asked=prompts,
            examples=tuple(
                PromptPair(base=Prompt(text=text, seed=prompt.seed), target=prompt)
                for text, prompt in zip(plain, asked, strict=True)
            ),
            base_images=base_images,
            shows=lambda images, of: np.asarray(judge.verdicts(images).artist == ARTIST + 1),
            generation=Generation(steps=STEPS, guidance=5.0),
        )

    return make
