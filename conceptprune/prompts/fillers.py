"""Fillers written by a language model: the question, and which lines of the answers are used.

A language model's output is never trusted: each line of each answer is either a filler or rejected
for a reason, and both are recorded. The model itself is in `language_model`.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass

import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from conceptprune.digest import canonical_json, seed_from
from conceptprune.errors import UserError
from conceptprune.manifest import Concept, Generator, Kind, concept_key
from conceptprune.manifest.fields import PromptText

WHAT: Mapping[Kind, str] = {
    "style": "everyday things, animals and places that can be painted",
    "nudity": "words for a person or a group of people, such as professions",
    "object": "places and scenes in which a thing can stand",
}
"""What the fillers of each kind are; kinds not listed here have no generated fillers."""
NAMED_ALSO: Mapping[Kind, tuple[str, ...]] = {"nudity": ("naked", "nude", "undressed", "topless")}
"""Words that mean the same as the erased concept's name."""

MAX_FILLER_CHARS = 60
MAX_FILLER_WORDS = 5
SHOWN_REJECTED = 3

_ITEM = re.compile(r"\s*(?:\d+\s*[.):]|[-*•])\s*(?P<text>.*)")
_ARTICLE = re.compile(r"(?:an?|the)\s+(?=\S)", re.IGNORECASE)
_AROUND = " \t\"'`*_.,;:“”‘’"
_FILLER: TypeAdapter[str] = TypeAdapter(PromptText)


class TooFewFillersError(UserError):
    """The language model gave too few usable fillers for a concept."""


def question_about(concept: Concept, generator: Generator) -> str:
    """The question for the language model about a concept."""
    return generator.template.format(
        count=generator.per_concept, what=WHAT[concept.kind], concept=concept.name
    )


def ask_seed(concept: Concept, generator: Generator, ask: int) -> int:
    """A 63-bit seed for one question, from the generator's seed, the concept and its number."""
    return seed_from(canonical_json([generator.seed, concept.kind, concept.name, ask]), bits=63)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A language model's answer."""

    text: str
    complete: bool
    """False if the answer was cut off at the token limit."""


Ask = Callable[[str, int], Answer]
"""(question, seed) -> answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerLine:
    """One line of an answer, and what became of it."""

    ask: int
    seed: int
    line: int
    text: str
    filler: str | None
    rejected: str | None
    """Why it is not a filler; None for a filler, and for an empty line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """Fillers of one concept, and all lines of the answers."""

    question: str
    fillers: tuple[str, ...]
    lines: tuple[AnswerLine, ...]


def asks_generator(concept: Concept) -> bool:
    """Whether the language model writes a concept's fillers."""
    return concept.kind in WHAT and concept.prompts is None and concept.fillers is None


def write_fillers(concept: Concept, generator: Generator, ask: Ask) -> Written:
    """Ask until there are `per_concept` fillers, and at most `max_asks` times.

    Raises:
        TooFewFillersError: the answers do not contain enough fillers.
    """
    question = question_about(concept, generator)
    fillers: dict[str, str] = {}
    lines: list[AnswerLine] = []
    for number in range(generator.max_asks):
        seed = ask_seed(concept, generator, number)
        answer = ask(question, seed)
        texts = answer.text.split("\n")
        for index, text in enumerate(texts):
            cut_off = not answer.complete and index == len(texts) - 1
            filler, rejected = None, "cut off" if cut_off else None
            if text.strip() and not cut_off:
                filler, rejected = _judge(text, concept, fillers, generator.per_concept)
            if filler is not None:
                fillers[concept_key(filler)] = filler
            lines.append(
                AnswerLine(
                    ask=number, seed=seed, line=index, text=text, filler=filler, rejected=rejected
                )
            )
        if len(fillers) == generator.per_concept:
            return Written(question=question, fillers=tuple(fillers.values()), lines=tuple(lines))
    raise TooFewFillersError(_too_few(concept, generator, len(fillers), lines))


def _judge(
    text: str, concept: Concept, known: Mapping[str, str], wanted: int
) -> tuple[str | None, str | None]:
    """The filler in a line, or why the line is rejected."""
    item = _ITEM.fullmatch(text)
    if item is None:
        return None, "not an entry of a list"
    filler = _ARTICLE.sub("", item["text"].strip(_AROUND), count=1)
    if len(filler) > MAX_FILLER_CHARS or len(filler.split()) > MAX_FILLER_WORDS:
        return None, "too long"
    if not any(char.isalpha() for char in filler):
        return None, "no word"
    try:
        _FILLER.validate_python(filler)
    except ValidationError:
        return None, "not printable"
    if not filler.isprintable() or "\ufffd" in filler:
        return None, "not printable"
    if any(_has_words(filler, name) for name in (concept.name, *NAMED_ALSO.get(concept.kind, ()))):
        return None, "names the concept"
    if concept_key(filler) in known:
        return None, "repeats a filler"
    if len(known) == wanted:
        return None, "more than asked for"
    return filler, None


def _has_words(text: str, name: str) -> bool:
    """Whether `name` occurs in `text` as whole words, ignoring case."""
    pattern = rf"(?<!\w){re.escape(concept_key(name))}(?!\w)"
    return re.search(pattern, concept_key(text)) is not None


def _too_few(concept: Concept, generator: Generator, found: int, lines: list[AnswerLine]) -> str:
    reasons = Counter(line.rejected for line in lines if line.rejected)
    why = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    examples = [line.text for line in lines if line.rejected][:SHOWN_REJECTED]
    return (
        f'prompts.generator: concept "{concept.name}": {generator.model.label} gave only {found} '
        f"of {generator.per_concept} fillers in {generator.max_asks} answers; rejected lines: "
        f"{why or 'none'}{f', such as {examples}' if examples else ''}. Raise max_asks or "
        "max_new_tokens, ask differently (template), or write the concept's fillers out"
    )


ANSWERS_SCHEMA = pa.schema(
    [
        pa.field("ask", pa.int32(), nullable=False),
        pa.field("line", pa.int32(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("filler", pa.string()),
        pa.field("rejected", pa.string()),
    ]
)
"""One row per line of an answer; joined by newlines, the lines of one question give the answer."""


def answers_table(
    concept: Concept, generator: Generator, language_model: str, written: Written
) -> pa.Table:
    """All of the language model's answers for a concept, and what was used.

    `language_model` is the digest of its files.
    """
    provenance = {
        "concept": concept.name,
        "kind": concept.kind,
        "model": generator.model.label,
        "revision": generator.model.hub_revision,
        "question": written.question,
        "identity": language_model,
        **generator.key_parts,
    }
    metadata = {
        "conceptprune.format": "answers/1",
        "conceptprune.sorted_by": "ask,line",
        "conceptprune.generator": canonical_json(provenance),
    }
    rows = [asdict(line) for line in written.lines]
    return pa.Table.from_pylist(rows, schema=ANSWERS_SCHEMA.with_metadata(metadata))


def placeholders(generator: Generator) -> Iterator[str]:
    """Placeholder fillers, to estimate a plan's size before the real ones are written."""
    return (f"filler {index + 1}" for index in range(generator.per_concept))
