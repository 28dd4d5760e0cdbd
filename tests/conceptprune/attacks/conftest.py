"""The studio model, its images of one artist, and its judge, and a tiny transformer: shared by the
attacks' tests."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from conceptprune.attacks.attempts import Generation, Scene
from conceptprune.models.base import DiffusionModel
from conceptprune.models.families import FAMILIES
from conceptprune.models.generate import Images
from conceptprune.models.prompt import Prompt
from conceptprune.models.stable_diffusion import StableDiffusion
from conceptprune.prompts.pairs import PromptPair
from conceptprune.studio import model_path
from conceptprune.studio.judge import Judge
from conceptprune.studio.names import ARTISTS, THINGS
from tests.support.tiny_models import TINY_MODELS

ARTIST = 4
STEPS = 8
"""Fewer than for show: the judge knows the artist all the same."""


def tiny(name: str, dtype: torch.dtype = torch.float32) -> DiffusionModel:
    """The model of a tiny pipeline by its name in `TINY_MODELS`."""
    (found,) = (each for each in TINY_MODELS if each.name == name)
    pipe = found.pipeline().to(dtype)
    return FAMILIES[type(pipe).__name__](pipe, resolution=found.resolution)


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


@pytest.fixture(scope="package")
def transformer_scene_of(
    scene_of: Callable[..., Scene], asked: tuple[Prompt, ...]
) -> Callable[..., Scene]:
    """The same on a tiny PixArt with random weights, none of whose images show the artist."""
    model = tiny("pixart-sigma")
    images = model.generate(asked, steps=2, guidance=5.0).numpy()

    def make(prompts: tuple[Prompt, ...] = asked) -> Scene:
        return replace(
            scene_of(prompts),
            model=model,
            base_images=images,
            shows=lambda images, of: np.zeros(len(images), np.bool_),
            generation=Generation(steps=2, guidance=5.0),
        )

    return make


@pytest.fixture(params=["scene_of", "transformer_scene_of"])
def any_scene_of(request: pytest.FixtureRequest) -> Callable[..., Scene]:
    """A scene of each kind of text encoder: CLIP, and T5 with a mask."""
    make: Callable[..., Scene] = request.getfixturevalue(request.param)
    return make
