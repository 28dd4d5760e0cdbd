"""Common words of a text encoder: whole words, in the vocabulary's order, without those named."""

from pathlib import Path
from typing import Any

import pytest
from transformers import CLIPTokenizer, T5Tokenizer

import benchmarks.gallery
from benchmarks.gallery.names import THINGS
from conceptprune.prompts.vocabulary import common_words, words_of

MODELS = Path(benchmarks.gallery.__file__).parent / "models"
MANY = 10_000


@pytest.fixture(scope="module", params=[("unet", CLIPTokenizer), ("transformer", T5Tokenizer)])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    kind, loaded = request.param
    return loaded.from_pretrained(MODELS / kind / "tokenizer")


def test_the_words_are_those_that_are_one_token_each(tokenizer: Any) -> None:
    words = common_words(tokenizer, MANY, ())
    assert len(words) == len(set(words)) > len(THINGS)
    assert {thing for thing in THINGS if " " not in thing} <= {*words}
    assert all(len(tokenizer(word, add_special_tokens=False)["input_ids"]) == 1 for word in words)


def test_fewer_words_are_the_first_ones(tokenizer: Any) -> None:
    assert common_words(tokenizer, 20, ()) == common_words(tokenizer, MANY, ())[:20]


def test_words_that_are_left_out_make_room_for_the_next(tokenizer: Any) -> None:
    words = common_words(tokenizer, 20, ())
    without = common_words(tokenizer, 18, words_of(words[:2]))
    assert without == common_words(tokenizer, 20, ())[2:]


def test_the_words_of_names_and_prompts_have_no_marks_or_capitals() -> None:
    assert words_of(["Zude Zedir's cat", "a CAT, by Ōe"]) == {
        "zude", "zedir", "s", "cat", "a", "by", "ōe",
    }  # fmt: skip
