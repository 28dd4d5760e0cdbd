"""Ring-A-Bell (Tsai et al., ICLR 2024): a genetic search for tokens that stand for the concept.

Black box: it needs only the text encoder, which erasure does not change, and no denoiser. The
concept is a direction in the encoder's space, the mean difference of prompts with and without it
(their eq. 2); the search brings a prompt's states near those of a harmless one moved along it (eq.
4).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from conceptprune.attacks.attempts import Attempt, Scene, attempt_seed
from conceptprune.attacks.text import TokenSpace
from conceptprune.attacks.token_spaces import token_space
from conceptprune.evaluation.attack_settings import RingABell
from conceptprune.models.prompt import Prompt
from conceptprune.prompts.pairs import PromptPair

Ids = NDArray[np.int64]
Distances = Callable[[Ids], NDArray[np.float64]]
"""Distances [n] of n rows of token ids [n, L] to the target of the search."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The best tokens of a search, and the best distance after each generation (never worse)."""

    ids: tuple[int, ...]
    best: tuple[float, ...]


def ring_a_bell(scene: Scene, settings: RingABell) -> list[Attempt]:
    """Search an adversarial prompt for each asked one, and generate from it once.

    Raises:
        UserError: the family's text encoders are not supported.
    """
    return attempts_with(scene, adversarial_prompts(scene, settings), settings)


def adversarial_prompts(scene: Scene, settings: RingABell) -> list[Prompt]:
    """What the search finds for each asked prompt, from its plain text.

    It does not depend on the denoiser: one search serves every checkpoint of a model.

    Raises:
        UserError: the family's text encoders are not supported.
    """
    space = token_space(scene.model)
    direction = concept_direction(space, scene.examples)
    found = []
    for plain, asked in zip(scene.plain, scene.asked, strict=True):
        wanted = _states(space, [plain])[0] + settings.coefficient * direction
        rng = np.random.default_rng(attempt_seed(settings.seed, asked))
        length = min(settings.length, space.room)
        best = search(distances_to(space, wanted), space.usable().numpy(), length, settings, rng)
        found.append(Prompt(text=space.text(best.ids), seed=asked.seed))
    return found


def attempts_with(scene: Scene, prompts: Sequence[Prompt], settings: RingABell) -> list[Attempt]:
    """One image from what was found for each asked prompt."""
    seen = scene.generate(prompts, range(len(prompts)))
    return [
        Attempt(
            asked=asked.text,
            prompt=prompt.text,
            seed=prompt.seed,
            success=bool(success),
            images=1,
            steps=settings.generations * settings.population,
        )
        for asked, prompt, success in zip(scene.asked, prompts, seen, strict=True)
    ]


@torch.no_grad()
def concept_direction(space: TokenSpace, examples: Sequence[PromptPair]) -> Tensor:
    """Mean difference [T, D] between the states of prompts with the concept and without it."""
    with_it = _states(space, [pair.target.text for pair in examples])
    return (with_it - _states(space, [pair.base.text for pair in examples])).mean(0)


def search(
    distances: Distances,
    tokens: Ids,
    length: int,
    settings: RingABell,
    rng: np.random.Generator,
) -> Found:
    """Genetic search over rows of `length` of the `tokens` for the smallest distance.

    As published, the better half become parents. Each has two children with another random parent,
    at the crossover rate; a mutation puts a random token at a random position. Unlike the
    reference, which may mutate its best row, the best row is kept unchanged.
    """
    population = rng.choice(tokens, (settings.population, length))
    best: list[float] = []
    for generation in range(settings.generations):
        scores = distances(population)
        order = np.argsort(scores, kind="stable")[: settings.population // 2]
        population = population[order]
        best.append(float(scores[order[0]]))
        if generation < settings.generations - 1:
            population = _next_generation(population, tokens, settings, rng)
    return Found(ids=tuple(int(token) for token in population[0]), best=tuple(best))


def _next_generation(
    parents: Ids, tokens: Ids, settings: RingABell, rng: np.random.Generator
) -> Ids:
    rows = [parents[0]]
    length = parents.shape[1]
    for parent in parents:
        rows.append(parent.copy())
        if rng.random() < settings.crossover:
            other = parents[rng.integers(len(parents))]
            cut = rng.integers(length + 1)
            rows.append(np.concatenate([parent[:cut], other[cut:]]))
            rows.append(np.concatenate([other[:cut], parent[cut:]]))
    for row in rows[1:]:
        if rng.random() < settings.mutation:
            row[rng.integers(length)] = rng.choice(tokens)
    return np.stack(rows)


@torch.no_grad()
def _states(space: TokenSpace, texts: Sequence[str]) -> Tensor:
    """What the denoiser hears [n, T, D] of texts."""
    return space.heard(torch.stack([space.padded(space.ids(text)) for text in texts]))


def distances_to(space: TokenSpace, wanted: Tensor) -> Distances:
    """Squared distance of a prompt's states to `wanted` [T, D], summed over tokens and width."""

    @torch.no_grad()
    def distances(rows: Ids) -> NDArray[np.float64]:
        # All rows have the same length, so start, end and padding are the same.
        ids = space.padded(rows[0].tolist()).repeat(len(rows), 1)
        ids[:, space.first : space.first + rows.shape[1]] = torch.from_numpy(rows)
        apart = (space.heard(ids) - wanted).double().square().sum((1, 2))
        return apart.cpu().numpy()

    return distances
