"""Rewording: what cross-attention hears of a hundred concepts' prompts becomes what it hears of
their base prompts.

UCE's equation (Gandikota et al., WACV 2024, arXiv 2308.14761, equation 7), on whole prompts where
its authors' scripts take names: every token from the concept's own words on becomes the token at
its place in the base prompt, and every token of the retained concepts' prompts, of the base prompts
and of the empty prompt stays. So do base prompts with common words as fillers, because people ask
for more than a manifest names. All enter as second moments (`moments.py`), which are additive: a
concept is added to, or taken back from, a batch without the others' prompts.

Shapes: T tokens of an encoded prompt, D its width.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import islice

import torch
from torch import Tensor

from conceptprune.edits.moments import Moments, Shift, merged, shift_map
from conceptprune.errors import UserError
from conceptprune.manifest import Reword
from conceptprune.models.base import DiffusionModel
from conceptprune.prompts.vocabulary import common_words

Pair = tuple[str, str]
"""A prompt without the concept (base) and one with it (target)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """A prompt as cross-attention hears it: without the padding that is masked."""

    states: Tensor
    """[T, D] float64."""
    words: int
    """Tokens before the end of the text, with those that begin it."""


def heard(model: DiffusionModel, text: str) -> Heard:
    """Encode a prompt."""
    conditions = model.encode(text)
    states = model.prompt_states(conditions)[0].detach().to("cpu", torch.float64)
    mask = conditions.get("encoder_attention_mask")
    if mask is not None:
        states = states[mask[0].bool().cpu()]
    return Heard(states=states, words=min(_words(model, text), len(states) - 1))


def concept_shift(model: DiffusionModel, name: str, pairs: Iterable[Pair]) -> Shift:
    """From a concept's target prompts to its base prompts.

    Its own words begin where the target names it, or else where target and base begin to differ.

    Raises:
        UserError: a target is the same as its base.
    """
    erased, wanted = [], []
    for base, target in dict.fromkeys(pairs):
        own, other = heard(model, target), heard(model, base)
        first = min(_first_own(model, name, base, target), own.words)
        places = torch.arange(first, len(own.states)).clamp(max=len(other.states) - 1)
        erased.append(own.states[first:])
        wanted.append(other.states[places])
    return Shift.of(torch.cat(erased), torch.cat(wanted))


def prompt_moments(model: DiffusionModel, texts: Iterable[str]) -> Moments:
    """Of every token of prompts that should stay."""
    return merged([Moments.of(heard(model, text).states) for text in dict.fromkeys(texts)])


def vocabulary_moments(
    model: DiffusionModel, templates: Sequence[str], *, count: int, without: Collection[str]
) -> Moments:
    """Of base prompts with common words in the place of `{filler}`.

    A text encoder that reads letters has no such words; the prompts are then without a filler.
    """
    words = common_words(model.pipe.tokenizer, count, without) or ("",)
    return prompt_moments(model, [each.format(filler=word) for each in templates for word in words])


def reword_map(
    erased: Iterable[Shift],
    retained: Iterable[Moments],
    bases: Iterable[Moments],
    empty: Moments,
    settings: Reword,
    vocabulary: Moments | None = None,
) -> Tensor:
    """M [D, D] float64, by which keys and values [R, D] are multiplied from the right.

    All are summed one after the other, in the given order; `retained` may be empty, and
    `vocabulary` be left out.
    """
    kept = [(settings.base, merged(bases)), (settings.empty, empty)]
    if vocabulary:
        kept.append((settings.vocabulary, vocabulary))
    others = list(islice(it := iter(retained), 1))
    if others:
        kept.append((settings.retain, merged([*others, *it])))
    return shift_map(reduce(Shift.merge, erased), kept, ridge=settings.ridge)


def _first_own(model: DiffusionModel, name: str, base: str, target: str) -> int:
    if base == target:
        raise UserError(f"{name}: a target prompt is the same as its base prompt, {base!r:.200}")
    before, found, _ = target.partition(name)
    if found:
        return _words(model, before.strip())
    ours, theirs = (_ids(model, text) for text in (target, base))
    pairs = enumerate(zip(ours, theirs, strict=False))
    return next((place for place, (one, other) in pairs if one != other), len(theirs) - 1)


def _words(model: DiffusionModel, text: str) -> int:
    """Tokens of a text before its end token."""
    return len(_ids(model, text)) - 1


def _ids(model: DiffusionModel, text: str) -> list[int]:
    tokenizer = model.pipe.tokenizer
    ids: list[int] = tokenizer(text, truncation=True, max_length=tokenizer.model_max_length)[
        "input_ids"
    ]
    return ids
