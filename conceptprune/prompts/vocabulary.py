"""Common words of a text encoder, which stand for all that prompts may ask for."""

import re
from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from typing import Any

FEWEST_LETTERS = 3
"""Shorter words are seldom names of things."""


def words_of(texts: Iterable[str]) -> frozenset[str]:
    """The words of names or prompts, in lower case."""
    return frozenset(word for text in texts for word in re.findall(r"\w+", text.lower()))


def common_words(tokenizer: Any, count: int, without: Collection[str]) -> tuple[str, ...]:
    """The first `count` words that are one token each, in the order of the vocabulary.

    That order begins with the most frequent ones in byte pair encodings, as CLIP's, and in
    SentencePiece, as T5's. `without` are words in lower case that are left out.
    """
    return tuple(islice(_words(tokenizer, frozenset(without)), count))


def _words(tokenizer: Any, without: frozenset[str]) -> Iterator[str]:
    seen = set(without)
    for token in range(len(tokenizer)):
        word = tokenizer.decode([token]).strip().lower()
        if len(word) < FEWEST_LETTERS or not word.isalpha() or word in seen:
            continue
        # Parts of words are decoded without a mark, but are not what the word alone becomes.
        if tokenizer(word, add_special_tokens=False)["input_ids"] == [token]:
            seen.add(word)
            yield word
