"""The two tokenizers: every word of a caption is one token; any other text is spelled out."""

import json
import math
import string
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer, T5Tokenizer

from benchmarks.gallery.captions import words

LENGTH = 16
"""Tokens of a padded caption."""
CHARACTERS = string.ascii_lowercase + string.digits + ".,'-!?"
WORD_END = "</w>"
WORD_START = "▁"


def clip_tokenizer() -> CLIPTokenizer:
    """Stable Diffusion's kind: byte pairs, with merges that make every word whole."""
    pairs = Tokenizer(models.BPE(end_of_word_suffix=WORD_END))
    pairs.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=10_000,
        min_frequency=1,
        end_of_word_suffix=WORD_END,
        initial_alphabet=list(CHARACTERS),
        special_tokens=[],
        show_progress=False,
    )
    pairs.train_from_iterator(words(), trainer)
    learned = json.loads(pairs.to_str())["model"]
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in learned["merges"]]
    tokens = [*CHARACTERS, *(c + WORD_END for c in CHARACTERS)]
    known = set(tokens)
    tokens += [t for t in sorted(learned["vocab"], key=learned["vocab"].get) if t not in known]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[special] = len(vocabulary)
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=LENGTH)


def save_old_format(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Add the two files that transformers before version 5 looks for."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    merges = (merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"])
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")


def t5_tokenizer() -> T5Tokenizer:
    """T5's kind: a unigram model in which whole words are far likelier than letters."""
    whole = math.log(1 / len(words()))
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 2 * whole)]
    pieces += [(WORD_START + word, whole) for word in words()]
    known = {piece for piece, _ in pieces}
    letters = [WORD_START, *CHARACTERS, *(WORD_START + c for c in CHARACTERS)]
    pieces += [(piece, 10 * whole) for piece in letters if piece not in known]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=LENGTH)
