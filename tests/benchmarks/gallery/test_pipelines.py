"""The exported folders are stock pipelines that generate what the training's forward pass says."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline

from benchmarks.gallery import acceptance, autoencoder, sampling
from benchmarks.gallery.acceptance import Share, questions, without_feed_forwards
from benchmarks.gallery.denoisers import KINDS, NOISE
from benchmarks.gallery.names import NUM_LOOKS, THINGS

PROMPTS = ["a cat by munu gruvick", "a photo of a hat"]
NUM_STEPS = 2


@pytest.fixture(scope="module", params=KINDS)
def exported(request, tmp_path_factory):
    """An untrained painter whose output is not zero, and the folder it was saved in."""
    torch.manual_seed(0)
    painter = KINDS[request.param]().eval()
    folder = tmp_path_factory.mktemp("models") / request.param
    painter.save(autoencoder.build(), folder)
    painter.half().float()  # what float16 keeps
    return request.param, painter, folder


def few_steps(pipeline):
    """The cards' settings, but for the number of steps."""
    return sampling.settings(pipeline) | {"num_inference_steps": NUM_STEPS}


@torch.no_grad()
def by_hand(painter, latents):
    """Guided DDIM, written out, with the forward pass that training uses."""
    scheduler = DDIMScheduler(**NOISE)
    scheduler.set_timesteps(NUM_STEPS)
    ids = torch.tensor([painter.token_ids(prompt) for prompt in PROMPTS])
    none = torch.tensor([painter.token_ids("")] * len(PROMPTS))
    for time in scheduler.timesteps:
        times = time.expand(len(PROMPTS))
        empty, asked = painter(latents, times, none), painter(latents, times, ids)
        guided = empty + sampling.GUIDANCE * (asked - empty)
        latents = scheduler.step(guided, time, latents).prev_sample
    return latents


def test_the_stock_pipeline_draws_what_the_training_forward_pass_draws(exported):
    _, painter, folder = exported
    pipeline = sampling.load(folder)
    noise = sampling.noise(pipeline, [1, 2])
    drawn = pipeline(PROMPTS, latents=noise, output_type="latent", **few_steps(pipeline)).images
    expected = by_hand(painter, noise)
    assert expected.std() > 0.1
    assert torch.allclose(drawn, expected, atol=2e-3 * expected.abs().max().item())


def test_a_folder_is_a_stock_class_of_at_most_forty_megabytes_in_half_precision(exported):
    kind, _, folder = exported
    pipeline = DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float16)
    stock = {"unet": "StableDiffusionPipeline", "transformer": "PixArtAlphaPipeline"}
    assert type(pipeline).__name__ == stock[kind]
    assert type(pipeline).__module__.startswith("diffusers.pipelines.")
    assert sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) < 40e6
    assert not [f for f in folder.rglob("*") if f.suffix in (".bin", ".pt", ".pkl", ".py")]


def test_an_image_does_not_depend_on_what_is_drawn_beside_it(exported):
    _, _, folder = exported
    pipeline = sampling.load(folder)
    both = sampling.noise(pipeline, [7, 8])
    assert torch.equal(both[1:], sampling.noise(pipeline, [8]))


def test_zeroed_feed_forwards_change_the_image_and_come_back(exported):
    _, _, folder = exported
    pipeline = sampling.load(folder)

    def draw():
        noise = sampling.noise(pipeline, [1])
        return pipeline(
            PROMPTS[:1], latents=noise, output_type="latent", **few_steps(pipeline)
        ).images

    before = draw()
    with without_feed_forwards(pipeline):
        denoiser = getattr(pipeline, "unet", None) or pipeline.transformer
        layers = [m for n, m in denoiser.named_modules() if n.endswith("ff.net.2")]
        assert layers
        assert all(not m.weight.any() for m in layers)
        assert not torch.equal(draw(), before)
    assert torch.equal(draw(), before)


def test_acceptance_asks_for_every_artist_and_every_thing_with_different_noise():
    asked = questions(each=8, photos=4)
    assert len(asked) == 128 * 8 + 16 * 4
    assert {look for _, look, _ in asked} == set(range(NUM_LOOKS))
    assert {thing for thing, look, _ in asked if look} == set(range(len(THINGS)))
    assert len({seed for _, _, seed in asked}) == len(asked)


def test_an_artists_images_are_of_different_things():
    for look in (1, 64, 128):
        things = [thing for thing, asked, _ in questions(8, 0) if asked == look]
        assert len(set(things)) == 8


def test_shares_carry_wilsons_interval():
    low, high = Share(950, 1000).interval
    assert (low, high) == (pytest.approx(0.93469, abs=1e-4), pytest.approx(0.96187, abs=1e-4))


def test_shares_count_what_was_asked_and_seen():
    answers = acceptance.Answers(
        thing=np.array([0, 1, 2, 3]),
        look=np.array([1, 2, 0, 0]),
        seen_thing=np.array([0, 0, 2, 0]),
        seen_look=np.array([1, 10, 0, 4]),
    )
    shares = answers.shares()
    assert (shares["artist"].hits, shares["artist"].images) == (1, 2)
    assert (shares["thing"].hits, shares["thing"].images) == (1, 2)
    assert (shares["photo"].hits, shares["photo"].images) == (1, 2)
    assert (shares["thing in photo"].hits, shares["thing in photo"].images) == (1, 2)
    # Asked look 2 is the second palette of the first mark; seen 10 the second of the second.
    assert answers.by_palette_and_mark() == {"mark": 0.5, "palette": 1.0}


def test_a_model_is_accepted_only_on_enough_images_of_enough_hits():
    good = {
        "artist": Share(973, 1024),
        "thing": Share(922, 1024),
        "photo": Share(61, 64),
        "thing in photo": Share(64, 64),
    }
    assert acceptance.accepted(good)
    assert not acceptance.accepted(good | {"artist": Share(972, 1024)})
    assert not acceptance.accepted(good | {"thing": Share(921, 1024)})
    assert not acceptance.accepted(good | {"photo": Share(60, 64)})
    assert not acceptance.accepted({**good, "artist": Share(256, 256), "thing": Share(256, 256)})
    assert not acceptance.accepted({name: good[name] for name in ("artist", "thing")})
