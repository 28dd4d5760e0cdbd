"""The prompt generator: a local language model that writes a concept's fillers."""

from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from conceptprune.manifest.fields import (
    Float,
    Int,
    Positive,
    PromptText,
    Section,
    Seed,
    refusal_here,
)
from conceptprune.manifest.model import LanguageModelRef

QUESTION = (
    "Write a numbered list of {count} different {what}. One a line, at most three words each, in "
    "lower case, without an article and without any other text. Never mention {concept}."
)
LANGUAGE_MODEL_FILES = ("*.json", "*.txt", "*.jinja", "*.safetensors", "*.model")
"""Patterns of a language model's files."""
GAPS = frozenset({"count", "what", "concept"})


def _asks_for_a_count(text: str) -> str:
    try:
        parts = list(Formatter().parse(text))
    except ValueError as error:
        raise refusal_here(f"text with its gaps in braces ({error})") from error
    found = [(name, spec, conversion) for _, name, spec, conversion in parts if name is not None]
    if any(name not in GAPS or spec or conversion for name, spec, conversion in found):
        raise refusal_here("no other gap than {count}, {what}, {concept}")
    if "count" not in {name for name, _, _ in found}:
        raise refusal_here("a question with a gap {count}, so that the answer is a list as long")
    return text


class Generator(Section):
    """A language model that writes the fillers of concepts that define none themselves.

    The prompt templates stay those of the concept's kind: the same text without and with it.
    """

    model: Annotated[
        LanguageModelRef,
        Field(description="a section with one of folder, uri, hub with revision"),
    ]
    template: Annotated[
        PromptText,
        AfterValidator(_asks_for_a_count),
        Field(
            description="the question, one line with a gap {count}; {what} and {concept} may be "
            "in it too"
        ),
    ] = QUESTION
    per_concept: Annotated[
        Int, Field(ge=1, le=200, description="how many fillers, a whole number from 1 to 200")
    ] = 20
    seed: Annotated[Seed, Field(description="a whole number from 0 to 2**63 - 1")] = 0
    max_asks: Annotated[Positive, Field(description="a whole number of at least 1")] = 4
    """How many answers to ask for, at most, until there are enough fillers."""
    max_new_tokens: Annotated[
        Positive, Field(description="tokens of an answer, a whole number of at least 1")
    ] = 512
    temperature: Annotated[Float, Field(gt=0, description="a number above 0")] = 0.8
    top_p: Annotated[
        Float, Field(gt=0, le=1, description="a number above 0 and at most 1 (1 is all tokens)")
    ] = 0.95
    dtype: Literal["float16", "bfloat16", "float32"] = "bfloat16"

    def local_folder(self) -> Path:
        """The language model's folder on this machine.

        Raises:
            UserError, StoreError: as `Model.local_folder`.
        """
        return self.model.local_folder(LANGUAGE_MODEL_FILES)

    @property
    def key_parts(self) -> dict[str, Any]:
        """The settings that decide answers, besides the content of the language model's files."""
        return {
            "template": self.template,
            "per_concept": self.per_concept,
            "seed": self.seed,
            "max_asks": self.max_asks,
            "max_new_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "dtype": self.dtype,
        }


class Prompts(Section):
    """How prompts are made if neither the concept nor the manifest writes them out."""

    generator: Annotated[
        Generator | None,
        Field(description="null for the published fillers, or a section with a language model"),
    ] = None
