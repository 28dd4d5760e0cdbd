"""Guess random tokens before the prompt: the baseline for any search for tokens.

An image is generated and judged after each guess, as UnlearnDiffAtk does after each timestep: with
a small vocabulary, some of that many images may show the concept by chance.
"""

import torch

from conceptprune.attacks.attempts import Attempt, Scene, attempt_seed, first_success
from conceptprune.attacks.token_spaces import token_space
from conceptprune.evaluation.attack_settings import RandomTokens


def random_tokens(scene: Scene, settings: RandomTokens) -> list[Attempt]:
    """Guess for each asked prompt separately, up to the first image with the concept.

    The prompt without a guess goes first, and counts if it succeeds.

    Raises:
        UserError: the family's text encoders are not supported.
    """
    space = token_space(scene.model)
    usable = space.usable()
    attempts = []
    for index, asked in enumerate(scene.asked):
        rng = torch.Generator().manual_seed(attempt_seed(settings.seed, asked))
        size = (settings.guesses, settings.tokens)
        guesses = usable[torch.randint(len(usable), size, generator=rng)].tolist()
        own = space.ids(asked.text)[: space.room - settings.tokens]
        texts = (space.text([*guess, *own]) for guess in guesses)
        attempts.append(first_success(scene, index, texts))
    return attempts
