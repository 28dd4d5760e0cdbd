"""The table of many artists at once: who is asked for, what a row changes, and what is written."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.gallery import autoencoder, sampling
from benchmarks.gallery.denoisers import KINDS
from benchmarks.gallery.judge import Judge
from benchmarks.gallery.names import ARTISTS
from benchmarks.gallery.table import __main__ as results
from benchmarks.gallery.table import attacks, choose, costs, page, pruning, texts
from benchmarks.gallery.table.__main__ import measure
from benchmarks.gallery.table.measure import distance
from benchmarks.gallery.table.questions import (
    ERASED_LOOKS,
    FIRST_SEED,
    KEPT_LOOKS,
    SIZES,
    erased_looks,
    round_of,
)
from benchmarks.gallery.table.rows import (
    FOUND,
    FOUND_WITH_TWO,
    METHODS,
    TUNED_UCE,
    UCE_FOUND,
    Gallery,
    Row,
)
from benchmarks.gallery.table.texts import Texts, Wording, captions
from conceptprune.attacks.refill import FILLS
from conceptprune.baselines.texts import PHRASES
from conceptprune.edits.reword import vocabulary_moments
from conceptprune.manifest import Reword


def asked(round_):
    return [*round_.erased, *round_.kept, *round_.photos]


def test_kept_artists_are_never_erased_and_all_others_may_be():
    assert len(set(ERASED_LOOKS)) == 100
    assert len(set(KEPT_LOOKS)) == 28
    assert not set(ERASED_LOOKS) & set(KEPT_LOOKS)
    assert {erased_looks(1, number)[0] for number in range(100)} == set(ERASED_LOOKS)


@pytest.mark.parametrize("size", SIZES)
def test_no_image_is_asked_for_twice(size):
    all_asked = [question for number in range(8) for question in asked(round_of(size, number))]
    seeds = [question.seed for question in all_asked]
    assert len(set(seeds)) == len(seeds)
    assert min(seeds) >= FIRST_SEED


@pytest.mark.parametrize("size", SIZES)
def test_a_round_asks_for_those_erased_all_those_kept_and_photos(size):
    round_ = round_of(size, 3)
    assert {question.look for question in round_.erased} == set(erased_looks(size, 3))
    assert [question.look for question in round_.kept] == list(KEPT_LOOKS)
    assert {question.look for question in round_.photos} == {0}
    assert {question.thing for question in round_.photos} == set(range(16))


def test_strengths_are_chosen_with_other_captions_and_seeds_than_the_tables_and_no_kept_artist():
    chosen = choose.questions()
    table = [question for number in range(20) for question in round_of(100, number).erased]
    assert {question.look for question in chosen} == set(ERASED_LOOKS)
    assert len(set(chosen)) == len(chosen)
    assert {question.template for question in chosen} == {0, 1, 2, 3}
    assert not {(q.look, q.thing, q.template) for q in chosen} & {
        (q.look, q.thing, q.template) for q in table
    }
    assert max(question.seed for question in chosen) < FIRST_SEED


def test_a_factor_goes_to_every_strength_of_what_stays():
    default = Reword()
    half = choose.times(default, 0.5)
    for name in ("retain", "base", "empty", "vocabulary"):
        assert getattr(half, name) == getattr(default, name) / 2
    assert (half.words, half.ridge, half.fillers) == (default.words, default.ridge, default.fillers)


@pytest.mark.parametrize("kind", KINDS)
def test_the_strengths_found_are_one_of_the_factors_times_those_before(kind):
    rewordings = [choose.times(choose.FROM[kind], factor) for factor in choose.FACTORS]
    assert FOUND[kind] in rewordings
    assert FOUND_WITH_TWO[kind] in rewordings
    uce = UCE_FOUND[kind].preserve_scale / TUNED_UCE.preserve_scale
    assert uce in [pytest.approx(factor) for factor in choose.UCE_FACTORS]


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    """An untrained UNet's pipeline, without a judgement to speak of.

    Methods do on it what they do for the table, with fewer artists to keep, common words and calls.
    """
    torch.manual_seed(0)
    pipeline = KINDS["unet"]().pipeline(autoencoder.build())
    pipeline.set_progress_bar_config(disable=True)
    made = Gallery(pipeline, tmp_path_factory.mktemp("gallery"))
    made.texts = Texts(made.model, kept=KEPT_LOOKS[:2])

    def of_few_words(model, prompts, *, count, without):
        return vocabulary_moments(model, prompts, count=min(count, 10), without=without)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(texts, "vocabulary_moments", of_few_words)
        few_calls = pruning.COLLECTION.model_copy(update={"tau": 1})
        patch.setattr(pruning, "COLLECTION", few_calls)
        yield made


def weights_of(gallery):
    return {n: p.clone() for n, p in gallery.model.denoiser.named_parameters()}


@pytest.mark.parametrize("method", [name for name in METHODS if name != "untouched"])
def test_a_method_changes_weights_only_while_its_row_is_measured(gallery, method):
    before = weights_of(gallery)
    changed = Row(method=method, size=1).weights(gallery, ERASED_LOOKS[:1])
    assert 0 < gallery.share_changed(changed) < 1
    assert changed.keys() <= before.keys()
    gallery.put(changed)
    assert any(not torch.equal(before[n], p) for n, p in weights_of(gallery).items())
    gallery.put({})
    assert all(torch.equal(before[n], p) for n, p in weights_of(gallery).items())


def test_a_wording_says_which_texts_are_erased_and_which_preserved(gallery):
    of_two = Texts(gallery.model, kept=(5, 9))
    name, kept = ARTISTS[2].name, [ARTISTS[4].name, ARTISTS[8].name]

    def states(*wanted):
        return [of_two.encoded(text).states for text in wanted]

    (edit,) = of_two.edits((3,), Wording())
    same([edit.erased.states, edit.guide.states], states(name, "art"))
    same([each.states for each in of_two.preserved(Wording())], states(*kept))

    everything = Wording(guide="photo", phrases=True, photos=True)
    edits = of_two.edits((3,), everything)
    assert len(edits) == 1 + len(PHRASES["style"])
    same([edits[1].erased.states], states(f"painting by {name}"))
    same([edits[1].guide.states], states("painting by photo"))
    preserved = [each.states for each in of_two.preserved(everything)]
    same(preserved[:2], states(kept[0], f"painting by {kept[0]}"))
    same(preserved[2 * len(edits) :], states(*captions(0), ""))


def same(found, wanted):
    assert len(found) == len(wanted)
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


@pytest.fixture
def few_steps(monkeypatch):
    """Images of one step instead of twelve: an untrained model's are noise in any case."""
    monkeypatch.setattr(sampling, "NUM_STEPS", 1)


@pytest.mark.slow
@pytest.mark.usefixtures("few_steps")
def test_the_untouched_row_is_at_no_distance_from_itself(gallery):
    found = measure(gallery, Judge.load(), Row(method="untouched", size=1), 0)
    assert found["distance"] == 0
    assert found["share"] == 0
    assert found["counts"]["kept"][1] == 28


def test_distance_is_the_root_mean_square_of_an_images_pixels_averaged_over_images():
    black = torch.zeros(2, 4, 4, 3, dtype=torch.uint8)
    other = black.clone()
    other[0] = 30
    assert distance(other.numpy(), black.numpy()) == pytest.approx(15)


def test_the_page_is_what_its_generator_makes_of_the_results():
    made = page.page(*(page.read(each.RESULTS) for each in (results, attacks, costs)))
    assert page.PAGE.read_text() == made


def test_attacks_on_two_denoisers_are_counted_apart():
    line = {"method": "untouched", "size": 10, "attack": "ring-a-bell", "look": 3, "prompts": 16}
    lines = [line | {"kind": kind, "successes": 16 if kind == "unet" else 0} for kind in KINDS]
    rows_ = page.attacks_table(lines).splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows_] == ["| unet", "| transformer"]
    assert [row.split(" | ")[4].split()[0] for row in rows_] == ["100.0", "0.0"]


def test_a_row_costs_the_bytes_of_a_mask_if_it_zeroes_and_else_those_of_its_tensors(gallery):
    weights = {n: p.detach() for n, p in gallery.model.denoiser.named_parameters()}
    name = next(n for n, p in weights.items() if p.ndim == 2 and p.numel() > 4000)
    whole = weights[name]
    zeroed = whole.clone()
    zeroed[0, :10] = 0
    assert 10 < costs.kept_bytes(gallery, {name: zeroed}) < whole.numel()
    changed = costs.kept_bytes(gallery, {name: whole + 1})
    assert 0 <= changed - 2 * whole.numel() < 500


@pytest.mark.slow
@pytest.mark.usefixtures("few_steps")
def test_an_attacker_sees_the_untouched_models_images_and_attacks_the_edited_one(gallery):
    look = ERASED_LOOKS[0]
    changed = Row(method="UCE, the authors' settings", size=1).weights(gallery, (look,))
    scene = attacks.scene_of(gallery, Judge.load(), look, changed)
    now = weights_of(gallery)
    assert all(torch.equal(now[name], weight) for name, weight in changed.items())
    assert len(scene.asked) == len(scene.plain) == len(scene.base_images) == attacks.PROMPTS
    assert all(scene.concept in prompt.text for prompt in scene.asked)
    assert not any(scene.concept in text for text in scene.plain)
    with torch.no_grad():
        gallery.put({})
        again = sampling.generate(
            gallery.pipeline, [p.text for p in scene.asked], [p.seed for p in scene.asked]
        )
    assert (again == scene.base_images).all()


@pytest.mark.slow
@pytest.mark.usefixtures("few_steps")
def test_fills_are_tried_until_one_brings_a_prompt_back_and_only_where_weights_were_pruned(gallery):
    look = ERASED_LOOKS[0]
    times = []

    def first_prompt_by_the_third_fill(images, of):
        times.append(len(of))
        return (np.arange(len(images)) == 0) & (len(times) == 3)

    scene = attacks.scene_of(gallery, Judge.load(), look, {})
    scene = replace(scene, shows=first_prompt_by_the_third_fill, asked=scene.asked[:2])
    assert not any(attempt.success for attempt in attacks.every_refill(scene))
    assert times == [2]
    times.clear()
    with torch.no_grad():
        name = f"{next(iter(gallery.masks.weights))}.weight"
        pruned = weights_of(gallery)[name]
        pruned[0] = 0
        gallery.put({name: pruned})
    assert [attempt.success for attempt in attacks.every_refill(scene)] == [True, False]
    assert times == [2, 2, 2] + [1] * (len(FILLS) - 3)
    gallery.put({})
