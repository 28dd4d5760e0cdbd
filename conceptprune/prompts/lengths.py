"""Find prompts too long for a text encoder: a concept past its last token is never seen.

Tokenizers truncate prompts silently. That does no harm if at least one of a pipeline's encoders
still reads the concept.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conceptprune.errors import UserError
from conceptprune.models.components import read_index, read_json
from conceptprune.prompts.pairs import PromptPair

SHOWN_CHARS = 60
UNLIMITED = 100_000
"""Tokenizers without a limit report a number above this."""
SHORT = 77
"""CLIP's limit, which is the shortest of all pipelines."""
SPECIAL = 8
"""Tokens that a tokenizer may add to those of the text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """A text encoder's tokenizer, and how many tokens the pipeline allows it."""

    tokenizer: Any
    limit: int

    def cut(self, text: str) -> tuple[str, str, int]:
        """The part of a prompt that is read, the lost part, and how many tokens are lost."""
        # No warning about the length: that is what is being checked.
        ids = self.tokenizer(text, verbose=False)["input_ids"]
        if len(ids) <= self.limit:
            return self._text(ids), "", 0
        # The last token that is read is the end token.
        lost = ids[self.limit - 1 : -1]
        return self._text(ids[: self.limit - 1]), self._text(lost), len(lost)

    def _text(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text


def check_lengths(folder: Path, concepts: Mapping[str, Sequence[PromptPair]]) -> None:
    """Check that some text encoder of a model reads each concept in each of its prompts.

    Raises:
        UserError: names the concept, the prompt and the tokens that are lost.
    """
    # A token is at least one byte, so short prompts need neither a tokenizer nor importing
    # diffusers.
    short = min([SHORT, *(_own_limit(path) for path in folder.glob("tokenizer*"))]) - SPECIAL
    readers: list[Reader] | None = None
    for name, pairs in concepts.items():
        for pair in pairs:
            if len(pair.target.text.encode()) <= short:
                continue
            readers = _readers(folder) if readers is None else readers
            lost = [_lost(reader, name, pair) for reader in readers]
            if lost and all(lost):
                reader = max(readers, key=lambda reader: reader.limit)
                _, text, count = reader.cut(pair.target.text)
                shown = pair.target.text[:SHOWN_CHARS]
                raise UserError(
                    f'concepts: "{name}" is past the last of the {reader.limit} tokens that the '
                    f'model reads of the prompt "{shown}...": {count} tokens are cut off, '
                    f'"{text[:SHOWN_CHARS]}"; shorten the prompt or put the concept first'
                )


def _lost(reader: Reader, concept: str, pair: PromptPair) -> bool:
    """Whether the reader misses the concept in the prompt, or part of it."""
    read, _, count = reader.cut(pair.target.text)
    if count == 0:
        return False
    if _letters(concept) in _letters(pair.target.text):
        return _letters(concept) not in _letters(read)
    # A target prompt may describe the concept without its name; then it must differ from the base.
    return read == reader.cut(pair.base.text)[0]


def _letters(text: str) -> str:
    """A text in lower case without spaces, since tokenizers may change both."""
    return "".join(text.casefold().split())


def _limits(folder: Path) -> list[tuple[str, int]]:
    """(tokenizer, number of tokens its encoder takes), from configs."""
    import diffusers

    index = read_index(folder)
    pipeline = getattr(diffusers, index["_class_name"], None)
    encode = getattr(pipeline, "encode_prompt", None)
    parameter = inspect.signature(encode).parameters.get("max_sequence_length") if encode else None
    found = []
    for name, entry in index.items():
        if not name.startswith("tokenizer") or not isinstance(entry, list) or None in entry:
            continue
        if len(entry) != 2 or not all(isinstance(part, str) for part in entry):
            raise UserError(f"model: {folder}: {name} is {entry!r:.60}, not a library and a class")
        limit = _own_limit(folder / name)
        if parameter is not None and isinstance(parameter.default, int) and "CLIP" not in entry[1]:
            limit = parameter.default
        found.append((name, limit))
    return found


def _own_limit(tokenizer: Path) -> int:
    """The number of tokens that an encoder takes, according to its tokenizer's config."""
    path = tokenizer / "tokenizer_config.json"
    own = read_json(path).get("model_max_length") if path.is_file() else None
    if own is None or (isinstance(own, int | float) and own >= UNLIMITED):
        return UNLIMITED
    if isinstance(own, bool) or not isinstance(own, int | float) or not own >= 1:
        raise UserError(f"model: {path}: model_max_length is no number of tokens: {own!r:.60}")
    return int(own)


def _readers(folder: Path) -> list[Reader]:
    import transformers

    index = read_index(folder)
    readers = []
    for name, limit in _limits(folder):
        kind: Any = getattr(transformers, index[name][1], None)
        try:
            tokenizer = kind.from_pretrained(
                folder / name, local_files_only=True, trust_remote_code=False
            )
        # Whatever its files make transformers raise; a tokenizer in Rust raises `Exception` itself.
        except Exception as error:
            raise UserError(
                f"model: {folder / name}: no tokenizer that {index[name][1]} reads: {error!s:.200}"
            ) from error
        readers.append(Reader(tokenizer=tokenizer, limit=limit))
    return readers
