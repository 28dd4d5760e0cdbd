"""The two tokenizers: every word of a caption is one token; any other text is spelled out."""

import math

from transformers import CLIPTokenizer, T5Tokenizer

from benchmarks.gallery.captions import words
from conceptprune.studio.training.tokenizer import CHARACTERS, LENGTH, byte_pairs

LARGEST_VOCABULARY = 10_000
WORD_START = "▁"


def clip_tokenizer() -> CLIPTokenizer:
    """Stable Diffusion's kind: byte pairs, with merges that make every word whole."""
    return byte_pairs(words(), LARGEST_VOCABULARY)


def t5_tokenizer() -> T5Tokenizer:
    """T5's kind: a unigram model in which whole words are far likelier than letters."""
    whole = math.log(1 / len(words()))
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 2 * whole)]
    pieces += [(WORD_START + word, whole) for word in words()]
    known = {piece for piece, _ in pieces}
    letters = [WORD_START, *CHARACTERS, *(WORD_START + c for c in CHARACTERS)]
    pieces += [(piece, 10 * whole) for piece in letters if piece not in known]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=LENGTH)
