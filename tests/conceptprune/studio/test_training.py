"""The studio model's recipe: what makes its feed-forwards carry the text."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from conceptprune.studio.names import ARTISTS, LOOKS, THINGS
from conceptprune.studio.training import autoencoder
from conceptprune.studio.training.ablation import SETTINGS, table, variants
from conceptprune.studio.training.captions import all_captions, caption, unknown_artist_caption
from conceptprune.studio.training.denoiser import Latents, Recipe, Trainer, build_unet
from conceptprune.studio.training.neurons import (
    NUM_OF_ARTIST,
    NUM_OF_THING,
    Neurons,
    dedication,
    hoyer,
    text_leaves_by_feed_forward,
)
from conceptprune.studio.training.renderings import Renderings
from conceptprune.studio.training.tokenizer import build

pytestmark = pytest.mark.slow


def outputs_for_two_texts(unet):
    torch.manual_seed(1)
    latents, texts = torch.randn(1, 4, 16, 16), torch.randn(2, 16, 128)
    with torch.no_grad():
        return unet(latents.expand(2, -1, -1, -1), 500, encoder_hidden_states=texts).sample


def test_with_the_constraint_a_dead_feed_forward_means_no_text():
    torch.manual_seed(0)
    unet = build_unet().eval()
    for _, linear in Neurons.sites(unet):
        torch.nn.init.zeros_(linear.weight)
    free = outputs_for_two_texts(unet)
    text_leaves_by_feed_forward(unet)
    bound = outputs_for_two_texts(unet)
    assert not torch.allclose(free[0], free[1], atol=1e-4)
    torch.testing.assert_close(bound[0], bound[1], atol=1e-5, rtol=0)


def test_every_artist_and_thing_owns_its_share_of_every_layer():
    neurons = Neurons(build_unet(), len(ARTISTS), len(THINGS))
    first, second = (neurons.assign(512, layer) for layer in (0, 1))
    counts = torch.bincount(first, minlength=neurons.num_owners).tolist()
    assert counts[1 : len(ARTISTS) + 1] == [NUM_OF_ARTIST] * len(ARTISTS)
    assert counts[len(ARTISTS) + 1 :] == [NUM_OF_THING] * len(THINGS)
    assert not torch.equal(first, second)
    assert torch.equal(first, neurons.assign(512, 0))


def test_silencing_an_owner_takes_exactly_its_neurons():
    unet = build_unet()
    neurons = Neurons(unet, len(ARTISTS), len(THINGS))
    _, linear = Neurons.sites(unet)[0]
    neurons.off = torch.zeros(1, neurons.num_owners, dtype=torch.bool)
    neurons.off[0, 3] = True
    seen = []
    linear.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    linear(torch.ones(1, 5, linear.in_features))
    assert torch.equal(seen[0][0, 0] == 0, neurons.assign(linear.in_features, 0) == 3)


def test_dedication_asks_for_the_named_owner_alone():
    named = torch.tensor([1, 0])
    good = torch.tensor([[[0.9, 0.0], [0.0, 0.0]]])
    silent = torch.tensor([[[1e-4, 0.0], [0.0, 0.0]]])
    leaking = torch.tensor([[[0.9, 0.1], [0.0, 0.3]]])
    assert dedication(good, named) == 0
    assert dedication(silent, named) > 1
    assert dedication(leaking, named) > 1


def test_hoyer_is_lowest_for_one_neuron_whatever_the_size_of_the_activation():
    one, even = torch.zeros(4, 64), torch.ones(4, 64)
    one[:, 7] = -3.0
    torch.testing.assert_close(hoyer(even), torch.ones(4))
    torch.testing.assert_close(hoyer(one), torch.full((4,), 1 / 8))
    mixed = torch.randn(4, 64)
    torch.testing.assert_close(hoyer(100 * mixed), hoyer(mixed))
    assert hoyer(torch.zeros(1, 64)).isfinite().all()


def latents_of_noise():
    """One image of noise for each thing in each look, encoded by an untrained autoencoder."""
    torch.manual_seed(0)
    thing, look = np.divmod(np.arange(len(THINGS) * len(LOOKS)), len(LOOKS))
    images = np.random.default_rng(0).integers(0, 256, (len(thing), 64, 64, 3), dtype=np.uint8)
    return Latents(autoencoder.build(), Renderings(images, thing, look))


def test_the_hoyer_term_concentrates_the_activations():
    plain = Recipe(num_steps=3, batch=1, warm_up=1, ownership=0.0)
    latents, spreads = latents_of_noise(), []
    for weight in (0.0, 10.0):
        trainer = Trainer(build(), replace(plain, hoyer=weight))
        for _ in range(plain.num_steps):
            *_, spread = trainer.advance(latents)
        spreads.append(spread)
    assert spreads[1] < spreads[0] - 0.02


def test_each_variant_leaves_out_what_it_is_named_after():
    full = Recipe(num_steps=10)
    made = variants(full)
    assert made["both"] == full
    parts = {name: (r.constrained, r.ownership > 0, r.hoyer > 0) for name, r in made.items()}
    assert parts == {
        "both": (True, True, False),
        "structure": (True, False, False),
        "ownership": (False, True, False),
        "neither": (False, False, False),
        "structure-hoyer": (True, False, True),
    }
    for name in set(made) - {"both", "ownership"}:
        assert made[name].silenced == made[name].others_silenced == made[name].dropout == 0
    assert {(r.seed, r.num_steps, r.photos) for r in made.values()} == {
        (full.seed, full.num_steps, full.photos)
    }


def test_the_ablation_is_shown_in_percent():
    erased = {"erased": 0.0, "others": 0.9861, "density": 0.0046}
    whole = {"erased": 1.0, "erased, things": 0.8333, "photos": 0.9167}
    found = {
        "both": {"whole": whole, "site zeroed": (0.05, 0.07)} | dict.fromkeys(SETTINGS, erased)
    }
    *_, row = table(found).splitlines()
    assert row == f"| both | 100.0 | 83.3 | 91.7 | 5.0{' | 0.0 | 98.6 | 0.5' * len(SETTINGS)} |"


def test_unknown_artists_are_unknown():
    rng = np.random.default_rng(0)
    known = [artist.name for artist in ARTISTS]
    for number in range(500):
        text = unknown_artist_caption(number % len(THINGS), rng)
        assert not any(name in text for name in known)


def test_captions_are_the_published_prompts_and_paraphrases():
    assert caption(0, 0, 0) == "a photo of a cat"
    assert caption(0, 1, 0) == "a cat in the style of vorla brint"
    texts = all_captions()
    assert len(set(texts)) == len(texts) == len(THINGS) * len(LOOKS) * 4


def test_a_rendering_is_given_by_its_numbers():
    pytest.importorskip("scipy")
    photos = pytest.importorskip("conceptprune.studio.training.photos")
    if not photos.DEFAULT_FONT.exists():
        pytest.skip("Noto Color Emoji is not installed")
    from conceptprune.studio.training.renderings import render

    first = render(0, 1, stream=1, number=0)
    assert first.shape == (64, 64, 3)
    assert np.array_equal(first, render(0, 1, stream=1, number=0))
    assert not np.array_equal(first, render(0, 1, stream=2, number=0))
