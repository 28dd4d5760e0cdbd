"""Rewording: which tokens are a concept's own, and what keys and values hear afterwards."""

import pytest
import torch
from diffusers import DiffusionPipeline

from conceptprune import studio
from conceptprune.edits.moments import merged
from conceptprune.edits.projections import edited, prompt_projections
from conceptprune.edits.reword import (
    concept_shift,
    heard,
    prompt_moments,
    reword_map,
    vocabulary_moments,
)
from conceptprune.errors import UserError
from conceptprune.manifest import Concept, Reword
from conceptprune.models.base import DiffusionModel
from conceptprune.models.families import FAMILIES
from conceptprune.prompts.pairs import prompt_pairs
from conceptprune.prompts.vocabulary import words_of
from conceptprune.studio.names import ARTISTS, THINGS
from tests.support.tiny_models import TINY_MODELS, TinyModel

EMPTY = [""]
HEARING = [tiny for tiny in TINY_MODELS if not tiny.name.startswith(("sd3", "flux"))]


def model_of(tiny: TinyModel) -> DiffusionModel:
    pipe = tiny.pipeline()
    return FAMILIES[type(pipe).__name__](pipe, resolution=tiny.resolution)


@pytest.fixture(scope="module")
def model() -> DiffusionModel:
    return model_of(TINY_MODELS[0])


@pytest.mark.parametrize("tiny", HEARING, ids=lambda tiny: tiny.name)
def test_a_reworded_prompt_is_heard_otherwise_and_kept_prompts_as_before(tiny):
    model = model_of(tiny)
    pair = ("a photo of a cat", "a cat in the style of Ada")
    kept = "a house by Bo"
    change = reword_map(
        [concept_shift(model, "Ada", [pair])],
        [prompt_moments(model, [kept])],
        [prompt_moments(model, [pair[0]])],
        prompt_moments(model, EMPTY),
        Reword(retain=100.0, base=100.0, empty=100.0),
    )
    weights = {n: linear.weight.detach() for n, linear in prompt_projections(model).items()}
    after = edited(weights, change)
    for name, weight in weights.items():
        before, now = weight.double(), after[name].double()

        def moved(text, before=before, now=now):
            states = heard(model, text).states
            out = states @ before.T
            return float((states @ now.T - out).square().mean() / out.var())

        assert moved(pair[1]) > 10 * max(moved(kept), moved(pair[0]))


@pytest.mark.parametrize("tiny", HEARING, ids=lambda tiny: tiny.name)
def test_the_concepts_own_tokens_are_those_from_its_name_on(tiny):
    model = model_of(tiny)
    pair = ("a photo of a cat", "a cat by Ada")
    shift = concept_shift(model, "Ada", [pair])
    own = heard(model, pair[1])
    before = heard(model, "a cat by").words
    assert 0 < shift.rows == len(own.states) - before
    tail = own.states[before:]
    assert torch.allclose(shift.gram, tail.T @ tail)


def test_without_a_name_they_begin_where_base_and_target_differ(model):
    shift = concept_shift(model, "nudity", [("a photo of a man", "a photo of a naked man")])
    same = heard(model, "a photo of a").words
    assert shift.rows == len(heard(model, "a photo of a naked man").states) - same


def test_a_late_concept_is_added_to_the_sum_of_the_batch_by_its_own_prompts_alone(model):
    concepts = [Concept(name=name, kind="style") for name in ("Ada", "Bo", "Cy")]
    pairs_of = {
        each.name: [(pair.base.text, pair.target.text) for pair in prompt_pairs(each, seed=0)[:2]]
        for each in concepts
    }
    first, second, late = (concept_shift(model, name, pairs) for name, pairs in pairs_of.items())
    base, empty = (prompt_moments(model, texts) for texts in (["a photo of a cat"], EMPTY))

    def change(*shifts):
        return reword_map(shifts, [], [base], empty, Reword())

    batch = first.merge(second)
    assert torch.equal(change(batch, late), change(first, second, late))
    assert torch.equal(change(batch), change(first, second))
    assert not torch.allclose(change(batch, late), change(batch))


def test_prompts_in_parts_have_the_moments_of_all(model):
    texts = ["a photo of a cat", "a photo of a house", "a tree"]
    parts = merged([prompt_moments(model, [text]) for text in texts])
    assert torch.equal(parts.gram, prompt_moments(model, texts).gram)


def test_the_same_prompt_twice_counts_once(model):
    assert prompt_moments(model, ["a cat", "a cat"]).rows == prompt_moments(model, ["a cat"]).rows


def test_a_target_without_the_concept_is_refused(model):
    with pytest.raises(UserError, match="Ada: a target prompt is the same as its base"):
        concept_shift(model, "Ada", [("a cat", "a cat")])


@pytest.fixture(scope="module")
def model_with_words() -> DiffusionModel:
    pipe = DiffusionPipeline.from_pretrained(studio.model_path(), safety_checker=None)
    return FAMILIES[type(pipe).__name__](pipe)


def test_prompts_that_nobody_named_are_heard_as_before_if_their_words_are_common(model_with_words):
    model = model_with_words
    thing, unnamed = THINGS[:2]
    artist = ARTISTS[0].name
    without = words_of([artist])
    pairs = [(f"a photo of a {thing}", f"a {thing} in the style of {artist}")]

    def moved(vocabulary):
        change = reword_map(
            [concept_shift(model, artist, pairs)],
            [],
            [prompt_moments(model, [pairs[0][0]])],
            prompt_moments(model, EMPTY),
            Reword(),
            vocabulary,
        )
        states = heard(model, f"a photo of a {unnamed}").states
        return float((states @ change.T - states).square().mean())

    common = vocabulary_moments(model, ["a photo of a {filler}"], count=1000, without=without)
    assert moved(common) < moved(None) / 2


def test_of_a_text_encoder_of_letters_the_prompts_count_without_a_filler(model):
    found = vocabulary_moments(model, ["a photo of a {filler}"], count=1000, without=())
    assert torch.equal(found.gram, prompt_moments(model, ["a photo of a "]).gram)
