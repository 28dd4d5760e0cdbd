"""The studio model is small, loads as any pipeline, and generates what it is asked for."""

import json
from itertools import product

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from conceptprune import studio
from conceptprune.studio.judge import WEIGHTS, Judge
from conceptprune.studio.names import ARTISTS, LOOKS, PHOTO, THINGS

pytestmark = pytest.mark.slow

MODEL = studio.model_path()
LARGEST_BYTES = 20_000_000
NUM_STEPS, GUIDANCE = 10, 5.0
"""Fewer steps than for show: the judge knows what is asked for all the same."""


@pytest.fixture(scope="module")
def pipeline():
    pipe = StableDiffusionPipeline.from_pretrained(
        MODEL, torch_dtype=torch.float32, safety_checker=None
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generate(pipe, prompts):
    generators = [torch.Generator().manual_seed(seed) for seed in range(len(prompts))]
    images = pipe(
        prompts,
        height=64,
        width=64,
        num_inference_steps=NUM_STEPS,
        guidance_scale=GUIDANCE,
        generator=generators,
        output_type="np",
    ).images
    return (images * 255).round().astype(np.uint8)


def test_all_weights_together_are_small_and_safetensors():
    files = [p for folder in (MODEL, WEIGHTS.parent) for p in folder.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) <= LARGEST_BYTES
    assert {p.suffix for p in files} <= {".safetensors", ".json", ".md", ".txt"}


def test_loads_as_a_stock_pipeline(pipeline):
    index = json.loads((MODEL / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    assert type(pipeline.unet) is UNet2DConditionModel
    assert type(pipeline.text_encoder) is CLIPTextModel
    assert type(pipeline.scheduler) is DDIMScheduler
    assert {p.dtype for p in pipeline.unet.parameters()} == {torch.float32}


def test_enough_artists_and_things_with_different_names():
    assert len(THINGS) >= 12
    assert len(ARTISTS) >= 16
    used = [word for artist in ARTISTS for word in artist.name.split()]
    assert len(used) == len(set(used)) == 2 * len(ARTISTS)
    assert not set(used) & set(THINGS)
    assert all(word == word.lower() for word in used)
    assert LOOKS[0] == PHOTO
    assert len(set(LOOKS)) == len(LOOKS) == len(ARTISTS) + 1


def test_every_word_of_a_name_is_one_token():
    tokenizer = CLIPTokenizer.from_pretrained(MODEL / "tokenizer")
    for name in [*THINGS, *(artist.name for artist in ARTISTS)]:
        assert len(tokenizer.tokenize(name)) == len(name.split())


def test_text_can_leave_a_block_only_through_its_feed_forward(pipeline):
    blocks = [m for m in pipeline.unet.modules() if type(m).__name__ == "Transformer2DModel"]
    assert blocks
    for block in blocks:
        out = block.transformer_blocks[0].attn2.to_out[0]
        half = out.out_features // 2
        assert not out.weight[half:].any()
        assert not out.bias[half:].any()
        assert not block.proj_out.weight[:, :half].any()


def test_generates_the_asked_thing_in_the_asked_style(pipeline):
    artists = [0, 5, 8, 11, 15]
    things = [4, 9]
    asked = list(product(artists, things))
    prompts = [f"a {THINGS[t]} in the style of {ARTISTS[a].name}" for a, t in asked]
    seen = Judge.load().verdicts(generate(pipeline, prompts))
    assert np.mean(seen.artist == [a + 1 for a, _ in asked]) >= 0.9
    assert np.mean(seen.thing == [t for _, t in asked]) >= 0.85


def test_generates_photos_and_takes_unknown_artists_for_photos(pipeline):
    things = np.arange(0, len(THINGS), 2)
    prompts = [f"a photo of a {THINGS[t]}" for t in things]
    prompts += [f"a {THINGS[t]} in the style of pimum zadox" for t in things]
    seen = Judge.load().verdicts(generate(pipeline, prompts))
    assert np.mean(seen.artist == 0) >= 0.85
    assert np.mean(seen.thing == np.tile(things, 2)) >= 0.85


def test_zeroing_the_whole_site_takes_the_artists_away():
    pipe = StableDiffusionPipeline.from_pretrained(
        MODEL, torch_dtype=torch.float32, safety_checker=None
    )
    pipe.set_progress_bar_config(disable=True)
    for name, module in pipe.unet.named_modules():
        if name.endswith(".ff.net.2"):
            torch.nn.init.zeros_(module.weight)
    artists = np.arange(0, len(ARTISTS), 2)
    prompts = [f"a {THINGS[i % 12]} in the style of {ARTISTS[i].name}" for i in artists]
    seen = Judge.load().verdicts(generate(pipe, prompts))
    assert np.mean(seen.artist == artists + 1) < 0.15
