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
from conceptprune.attacks.concept_inversion import (
    WORD,
    caption,
    captioned,
    concept_inversion,
    conditions_of,
)
from conceptprune.attacks.loss import diffusion_loss, latents_of
from conceptprune.attacks.random_tokens import random_tokens
from conceptprune.attacks.ring_a_bell import distances_to, ring_a_bell, search
from conceptprune.attacks.text import TokenSpace
from conceptprune.attacks.token_spaces import token_space
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
from tests.conceptprune.attacks.conftest import tiny

pytestmark = pytest.mark.slow

SceneOf = Callable[..., Scene]


def harmless(scene: Scene) -> tuple[Prompt, ...]:
    """The scene's plain texts, each with the seed of the asked prompt it goes with."""
    pairs = zip(scene.plain, scene.asked, strict=True)
    return tuple(Prompt(text=text, seed=asked.seed) for text, asked in pairs)


@pytest.fixture(scope="module", params=["sd1", "pixart-sigma"])
def exact(request: pytest.FixtureRequest) -> TokenSpace:
    """The token space of a tiny model in float64, for finite differences."""
    return token_space(tiny(request.param, torch.float64))


@pytest.fixture(params=["studio", "pixart-alpha", "pixart-sigma"])
def space(request: pytest.FixtureRequest, studio: StableDiffusion) -> TokenSpace:
    """The token space of a model of each pipeline, in float32."""
    return token_space(studio if request.param == "studio" else tiny(request.param))


LONG = "a cat and " * 100
"""More tokens than any of the encoders takes."""


@torch.no_grad()
def test_tokens_encode_to_what_the_pipeline_makes_of_the_text(space: TokenSpace) -> None:
    text = "a cat in the style of vorla brint"
    for each in (text, "", " A Cat, in", "a <pad> cat", LONG):
        expected = space.model.encode_prompt(each)
        ids = space.padded(space.ids(each))[None]
        for found in (space.encode_ids(ids), space.encode_embeddings(space.table[ids], ids)):
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert space.text(space.ids(text)) == text


def test_one_token_more_than_the_encoder_takes_is_refused(space: TokenSpace) -> None:
    own = space.ids(LONG)
    assert len(own) == space.room
    with pytest.raises(UserError, match=f"takes {space.room}"):
        space.padded([*own, own[0]])


@torch.no_grad()
def test_padding_is_heard_of_a_clip_encoder_and_not_of_a_masked_one(space: TokenSpace) -> None:
    texts = [space.ids(text) for text in ("a cat", "a cat and a dog")]
    ids = torch.stack([space.padded(own) for own in texts])
    states, heard = space.encode_ids(ids)["encoder_hidden_states"], space.heard(ids)
    assert heard.shape == states.shape
    for row, own in enumerate(texts):
        end = space.first + len(own) + 1
        assert torch.allclose(heard[row, :end], states[row, :end], atol=1e-5)
        padding = states[row, end:]
        masked = not isinstance(space.model, StableDiffusion)
        assert torch.equal(heard[row, end:], 0 * padding if masked else padding)


def test_a_search_uses_no_special_tokens_no_capitals_and_no_rows_to_spare(
    space: TokenSpace,
) -> None:
    usable = space.usable().tolist()
    assert not set(usable) & set(space.tokenizer.all_special_ids)
    pieces = space.tokenizer.convert_ids_to_tokens(usable)
    assert all(piece == piece.lower() for piece in pieces)
    if not isinstance(space.model, StableDiffusion):
        assert len(space.tokenizer) - len(usable) == 3 + 26
        # As T5's own table has, beyond its vocabulary.
        space.encoder.resize_token_embeddings(len(space.tokenizer) + 8)
        assert space.usable().tolist() == usable


@pytest.mark.parametrize("name", ["sdxl", "sd3", "flux-dev"])
def test_attacks_on_tokens_refuse_another_family_and_name_those_they_are_for(name: str) -> None:
    model = tiny(name)
    with pytest.raises(
        UserError,
        match=rf"1\.x and 2\.x and for PixArt, not for {type(model).__name__}",
    ):
        token_space(model)


@torch.no_grad()
def test_chosen_tokens_stand_before_the_prompt(exact: TokenSpace) -> None:
    rng = torch.Generator().manual_seed(1)
    shape = (1, exact.model.latent_channels(exact.model.config), 8, 8)
    latents, noise = (torch.randn(shape, generator=rng, dtype=torch.float64) for _ in range(2))
    usable = exact.usable()
    picked, own = torch.tensor([20, 30]), exact.ids("a cat")
    chosen = F.one_hot(picked, len(usable)).double()
    with torch.enable_grad():
        loss, _ = loss_and_gradient(exact, chosen, own, latents, noise, 300, usable)
    ids = exact.padded([*usable[picked].tolist(), *own])[None]
    expected = diffusion_loss(exact.model, latents, noise, 300, exact.encode_ids(ids))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)


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

    # No smaller: T5's norm computes in float32 whatever the dtype, which a small step would show.
    size = 3e-3
    slope = (loss(rows + size * step)[0] - loss(rows - size * step)[0]) / (2 * size)
    assert slope.item() == pytest.approx((loss(rows)[1] * step).sum().item(), rel=1e-3)


def test_an_image_costs_less_under_its_own_prompt(scene_of: SceneOf) -> None:
    scene = scene_of()
    space = token_space(scene.model)
    latents = latents_of(scene.model, torch.from_numpy(scene.base_images))
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(2))

    @torch.no_grad()
    def loss(texts: list[str]) -> float:
        ids = torch.stack([space.padded(space.ids(text)) for text in texts])
        at = space.encode_ids(ids)
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


@torch.no_grad()
def test_the_search_is_nearest_at_the_very_tokens_that_are_wanted(space: TokenSpace) -> None:
    wanted = space.ids("a cat by kesto malu")
    target = space.heard(space.padded(wanted)[None])[0]
    rows = np.stack([np.roll(wanted, shift) for shift in range(3)])
    at_them, *beside = distances_to(space, target)(rows)
    assert at_them == pytest.approx(0, abs=1e-6)
    assert min(beside) > 1e-2


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


def test_ring_a_bell_repeats_itself(any_scene_of: SceneOf) -> None:
    scene = any_scene_of()
    short = RingABell(coefficient=1.0, length=8, population=10, generations=2)
    attempts = ring_a_bell(scene, short)
    assert attempts == ring_a_bell(scene, short)
    assert all(attempt.prompt != attempt.asked for attempt in attempts)


def test_unlearn_diff_stops_where_it_succeeds(scene_of: SceneOf) -> None:
    scene = scene_of()
    (first, second) = unlearn_diff(scene, UnlearnDiff(tokens=2, timesteps=2, iterations=2))
    # On the whole model the asked prompt itself shows the artist.
    assert (first.success, first.images, first.steps) == (True, 1, 0)
    assert second.prompt == scene.asked[1].text


def test_unlearn_diff_puts_tokens_before_the_prompt_and_repeats_itself(
    any_scene_of: SceneOf,
) -> None:
    options = UnlearnDiff(tokens=2, timesteps=2, iterations=2)
    plain = harmless(any_scene_of())[:1]
    attempts = unlearn_diff(any_scene_of(plain), options)
    assert attempts == unlearn_diff(any_scene_of(plain), options)
    assert all(attempt.prompt != attempt.asked for attempt in attempts)
    assert all(attempt.prompt.endswith(attempt.asked) for attempt in attempts)


def test_guesses_end_at_the_first_success(scene_of: SceneOf) -> None:
    options = RandomTokens(tokens=2, guesses=2)
    assert all(attempt.images == 1 for attempt in random_tokens(scene_of(), options))


def test_guesses_stand_before_the_prompt_and_repeat_themselves(any_scene_of: SceneOf) -> None:
    plain = harmless(any_scene_of())[:1]
    options = RandomTokens(tokens=2, guesses=2)
    attempts = random_tokens(any_scene_of(plain), options)
    assert attempts == random_tokens(any_scene_of(plain), options)
    assert all(attempt.success or attempt.images == 3 for attempt in attempts)
    assert all(attempt.prompt.endswith(attempt.asked) for attempt in attempts)


@torch.no_grad()
def test_the_learned_word_stands_where_the_name_stood(space: TokenSpace) -> None:
    asked = Prompt(text="a cat by kesto malu, indoors", seed=0)
    assert captioned("kesto malu", "a cat", asked) == f"a cat by {WORD}, indoors"
    assert captioned("nudity", "a cat", asked) == f"a cat, {WORD}"
    # If what is learned are the name's own embeddings, it is the name, in each caption of a batch.
    name = space.ids("kesto malu")
    texts = (f"a cat by {WORD}, in", f"{WORD} and a big dog", f"a cat, {WORD}")
    captions = [caption(space, ConceptInversion(vectors=len(name)), text) for text in texts]
    assert captions[0].at == space.first + len(space.ids("a cat by"))
    found = conditions_of(space, captions, space.table[name])
    for row, text in enumerate(texts):
        expected = space.model.encode_prompt(text.replace(WORD, "kesto malu"))
        assert found.keys() == expected.keys()
        for part, whole in expected.items():
            assert torch.allclose(found[part][row], whole[0], atol=1e-5)


def test_concept_inversion_repeats_itself_and_keeps_its_word(any_scene_of: SceneOf) -> None:
    options = ConceptInversion(steps=2, batch_size=2, start="style", vectors=2)
    scene = any_scene_of()
    attempts = concept_inversion(scene, options)
    assert attempts == concept_inversion(scene, options)
    assert all(attempt.embedding == attempts[0].embedding for attempt in attempts)
    assert len(attempts[0].embedding or ()) == 2 * token_space(scene.model).table.shape[1]
    assert all(WORD in attempt.prompt for attempt in attempts)
