"""Attacks through the text encoder: their gradients, their searches, and that they can succeed."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch.nn import functional as F

from conceptprune.attacks.attempts import Scene
from conceptprune.attacks.concept_inversion import WORD, caption, captioned, concept_inversion
from conceptprune.attacks.loss import diffusion_loss, latents_of
from conceptprune.attacks.random_tokens import random_tokens
from conceptprune.attacks.ring_a_bell import ring_a_bell, search
from conceptprune.attacks.text import TokenSpace
from conceptprune.attacks.unattacked import unattacked
from conceptprune.attacks.unlearn_diff import loss_and_gradient, to_simplex, unlearn_diff
from conceptprune.errors import UserError
from conceptprune.evaluation.attack_settings import (
    ConceptInversion,
    RandomTokens,
    RingABell,
    Unattacked,
    UnlearnDiff,
)
from conceptprune.models.prompt import Prompt
from conceptprune.models.stable_diffusion import StableDiffusion
from conceptprune.models.stable_diffusion_xl import StableDiffusionXL
from tests.support.sd15_shaped import build_pipeline
from tests.support.tiny_models import stable_diffusion_xl

pytestmark = pytest.mark.slow

SceneOf = Callable[..., Scene]


def harmless(scene: Scene) -> tuple[Prompt, ...]:
    """The scene's plain texts, each with the seed of the asked prompt it goes with."""
    pairs = zip(scene.plain, scene.asked, strict=True)
    return tuple(Prompt(text=text, seed=asked.seed) for text, asked in pairs)


@pytest.fixture(scope="module")
def exact() -> TokenSpace:
    """The token space of the tiny model in float64, for finite differences."""
    return TokenSpace.of(StableDiffusion(build_pipeline().to(torch.float64)))


def test_tokens_encode_to_what_the_pipeline_makes_of_the_text(studio: StableDiffusion) -> None:
    space = TokenSpace.of(studio)
    text = "a cat in the style of vorla brint"
    with torch.no_grad():
        expected = studio.encode_prompt(text)["encoder_hidden_states"]
        ids = space.padded(space.ids(text))
        assert torch.equal(space.encode_ids(ids[None]), expected)
        assert torch.equal(space.encode_embeddings(space.table[ids][None], ids), expected)
    assert space.text(space.ids(text)) == text


def test_attacks_on_tokens_refuse_another_family_by_name() -> None:
    with pytest.raises(UserError, match="not for StableDiffusionXL"):
        TokenSpace.of(StableDiffusionXL(stable_diffusion_xl()))


def test_the_gradient_of_the_prefix_equals_finite_differences(exact: TokenSpace) -> None:
    rng = torch.Generator().manual_seed(1)
    shape = (1, exact.model.latent_channels(exact.model.config), 8, 8)
    latents, noise = (torch.randn(shape, generator=rng, dtype=torch.float64) for _ in range(2))
    usable = exact.usable()
    rows = torch.rand(2, len(usable), generator=rng, dtype=torch.float64)
    step = torch.randn(rows.shape, generator=rng, dtype=torch.float64)
    # The ids only say where the prompt ends: they must not change with the step.
    rows[:, 0] += 10

    def loss(at: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return loss_and_gradient(exact, at.clone(), [3, 4], latents, noise, 300, usable)

    size = 1e-4
    slope = (loss(rows + size * step)[0] - loss(rows - size * step)[0]) / (2 * size)
    assert slope.item() == pytest.approx((loss(rows)[1] * step).sum().item(), rel=1e-3)


def test_an_image_costs_less_under_its_own_prompt(scene_of: SceneOf) -> None:
    scene = scene_of()
    space = TokenSpace.of(scene.model)
    latents = latents_of(scene.model, torch.from_numpy(scene.base_images))
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(2))

    @torch.no_grad()
    def loss(texts: list[str]) -> float:
        ids = torch.stack([space.padded(space.ids(text)) for text in texts])
        states = space.encode_ids(ids)
        at = {"encoder_hidden_states": states}
        return diffusion_loss(scene.model, latents, noise, 600, at).item()

    assert loss([prompt.text for prompt in scene.asked]) < loss(list(scene.plain))


@settings(max_examples=50, deadline=None)
@given(arrays(np.float64, (2, 7), elements=st.floats(-3, 3)))
def test_projection_to_the_simplex_is_on_it_and_nearest(values: np.ndarray) -> None:
    rows = torch.from_numpy(values)
    projected = to_simplex(rows)
    assert projected.min() >= 0
    assert torch.allclose(projected.sum(1), torch.ones(2, dtype=rows.dtype))
    assert torch.allclose(to_simplex(projected), projected)
    # Nearest: no corner of the simplex lies on the far side of what was cut away.
    inward = F.one_hot(torch.arange(7), 7) - projected[:, None]
    assert ((rows - projected)[:, None] * inward).sum(2).max() < 1e-9


def test_the_genetic_search_never_loses_its_best_and_finds_what_is_planted() -> None:
    tokens = np.arange(40)
    wanted = np.random.default_rng(0).choice(tokens, 5)

    def distances(rows: np.ndarray) -> np.ndarray:
        return (rows != wanted).sum(1).astype(np.float64)

    options = RingABell(population=40, generations=60)
    first, again = (
        search(distances, tokens, 5, options, np.random.default_rng(9)) for _ in range(2)
    )
    assert list(first.best) == sorted(first.best, reverse=True)
    assert first.ids == tuple(wanted)
    assert first == again


def test_ring_a_bell_brings_the_artist_to_harmless_prompts(scene_of: SceneOf) -> None:
    # The positive control: on the whole model, from texts without the artist.
    scene = scene_of()
    assert not any(
        attempt.success
        for attempt in unattacked(
            scene_of(harmless(scene)),
            Unattacked(),
        )
    )
    options = RingABell(coefficient=1.0, length=8, population=60, generations=60)
    attempts = ring_a_bell(scene, options)
    assert [attempt.success for attempt in attempts] == [True, True]
    assert [attempt.seed for attempt in attempts] == [prompt.seed for prompt in scene.asked]
    short = RingABell(coefficient=1.0, length=8, population=10, generations=2)
    assert ring_a_bell(scene, short) == ring_a_bell(scene, short)


def test_unlearn_diff_stops_where_it_succeeds_and_repeats_itself(scene_of: SceneOf) -> None:
    scene = scene_of()
    options = UnlearnDiff(tokens=2, timesteps=2, iterations=2)
    (first, second) = unlearn_diff(scene, options)
    # On the whole model the asked prompt itself shows the artist.
    assert (first.success, first.images, first.steps) == (True, 1, 0)
    assert second.prompt == scene.asked[1].text
    plain = harmless(scene)[:1]
    attempts = unlearn_diff(scene_of(plain), options)
    assert attempts == unlearn_diff(scene_of(plain), options)
    assert all(attempt.prompt != attempt.asked for attempt in attempts)
    assert all(attempt.prompt.endswith(attempt.asked) for attempt in attempts)


def test_guesses_end_at_the_first_success_and_repeat_themselves(scene_of: SceneOf) -> None:
    plain = harmless(scene_of())[:1]
    options = RandomTokens(tokens=2, guesses=2)
    assert all(attempt.images == 1 for attempt in random_tokens(scene_of(), options))
    attempts = random_tokens(scene_of(plain), options)
    assert attempts == random_tokens(scene_of(plain), options)
    assert all(attempt.success or attempt.images == 3 for attempt in attempts)
    assert all(attempt.prompt.endswith(attempt.asked) for attempt in attempts)


def test_the_learned_word_stands_where_the_name_stood(studio: StableDiffusion) -> None:
    asked = Prompt(text="a cat by kesto malu, indoors", seed=0)
    assert captioned("kesto malu", "a cat", asked) == f"a cat by {WORD}, indoors"
    assert captioned("nudity", "a cat", asked) == f"a cat, {WORD}"
    space = TokenSpace.of(studio)
    found = caption(space, ConceptInversion(vectors=2), f"a cat by {WORD}, in")
    whole = space.ids("a cat by x x, in")
    assert found.at == 1 + len(space.ids("a cat by"))
    kept = [i for i in range(len(found.ids)) if i not in (found.at, found.at + 1)]
    assert torch.equal(found.ids[kept], space.padded(whole)[kept])


def test_concept_inversion_repeats_itself_and_keeps_its_word(scene_of: SceneOf) -> None:
    options = ConceptInversion(steps=2, batch_size=2, start="style", vectors=2)
    attempts = concept_inversion(scene_of(), options)
    assert attempts == concept_inversion(scene_of(), options)
    assert all(attempt.embedding == attempts[0].embedding for attempt in attempts)
    assert len(attempts[0].embedding or ()) == 2 * 128
    assert all(WORD in attempt.prompt for attempt in attempts)
