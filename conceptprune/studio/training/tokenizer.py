"""A byte-pair tokenizer in CLIP's format, in which every word of a caption is one token."""

import json
import string
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from conceptprune.studio.training.captions import all_captions

LENGTH = 16
WORD_END = "</w>"
CHARACTERS = string.ascii_lowercase + string.digits + ".,'-!?"
LARGEST_VOCABULARY = 700


def build() -> CLIPTokenizer:
    """Merges are learned from the captions."""
    return byte_pairs(all_captions(), LARGEST_VOCABULARY)


def byte_pairs(texts: Iterable[str], largest_vocabulary: int) -> CLIPTokenizer:
    """Merges are learned from `texts`; any other lower-case text is spelled out."""
    pairs = Tokenizer(models.BPE(end_of_word_suffix=WORD_END))
    pairs.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=largest_vocabulary,
        min_frequency=1,
        end_of_word_suffix=WORD_END,
        initial_alphabet=list(CHARACTERS),
        # As special tokens they get their numbers first. Otherwise these come from a hash table, in
        # an order of its own each time, which decides ties between merges.
        special_tokens=[character + WORD_END for character in CHARACTERS],
        show_progress=False,
    )
    pairs.train_from_iterator(texts, trainer)
    learned = json.loads(pairs.to_str())["model"]
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in learned["merges"]]
    tokens = [*CHARACTERS, *(c + WORD_END for c in CHARACTERS)]
    known = set(tokens)
    tokens += [t for t in sorted(learned["vocab"], key=learned["vocab"].get) if t not in known]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[special] = len(vocabulary)
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=LENGTH)


def token_ids(tokenizer: CLIPTokenizer, text: str) -> list[int]:
    """A text as LENGTH ids, padded or cut."""
    ids: list[int] = tokenizer(
        text, padding="max_length", max_length=LENGTH, truncation=True
    ).input_ids
    return ids


def save_old_format(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Add the two files that transformers before version 5 looks for."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    merges = (merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"])
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
