"""Captions as tokens: words are whole, and both tokenizers survive a trip through a folder."""

import pytest
from transformers import CLIPTokenizer, T5Tokenizer

from benchmarks.gallery.captions import all_captions, caption, words
from benchmarks.gallery.names import ARTISTS
from benchmarks.gallery.tokenizers import clip_tokenizer, t5_tokenizer
from conceptprune.studio.training.tokenizer import LENGTH

KINDS = {"clip": (clip_tokenizer, CLIPTokenizer), "t5": (t5_tokenizer, T5Tokenizer)}


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request, tmp_path_factory):
    """As `from_pretrained` gives it back."""
    build, kind = KINDS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    build().save_pretrained(folder)
    return kind.from_pretrained(folder)


def test_every_word_of_a_caption_is_one_token_of_its_own(tokenizer):
    tokens = [tokenizer(word, add_special_tokens=False).input_ids for word in words()]
    assert all(len(ids) == 1 for ids in tokens)
    assert len({ids[0] for ids in tokens}) == len(tokens)


@pytest.mark.parametrize("build", [build for build, _ in KINDS.values()])
def test_a_tokenizer_that_is_made_again_gives_the_same_tokens(build):
    first, *others = (build()(words()).input_ids for _ in range(6))
    assert all(other == first for other in others)


def test_every_caption_fits_and_says_what_it_is_given(tokenizer):
    texts = all_captions()[::37]
    for ids in tokenizer(texts).input_ids:
        assert len(ids) <= LENGTH
    assert tokenizer.batch_decode(tokenizer(texts).input_ids, skip_special_tokens=True) == texts


def test_unknown_words_are_spelled_in_several_known_tokens(tokenizer):
    ids = tokenizer("xylophone", add_special_tokens=False).input_ids
    assert len(ids) > 3
    assert tokenizer.unk_token_id not in ids or tokenizer.unk_token_id == tokenizer.eos_token_id


def test_a_caption_names_its_artist_and_a_photo_names_none():
    assert ARTISTS[4].name in caption(0, 5)
    assert caption(0, 0) == "a photo of a cat"
