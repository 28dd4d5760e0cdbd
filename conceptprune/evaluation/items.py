"""A suite's prompts as a flat list: each with its seed, its group, and what it should show."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from conceptprune.digest import seed_from
from conceptprune.evaluation.prompt_files import file_prompts
from conceptprune.evaluation.scorers.base import Case, Group, Labels
from conceptprune.evaluation.suite import Generation, Source, Suite
from conceptprune.manifest import Concept
from conceptprune.manifest.concept import DefaultFillers, DefaultTemplates
from conceptprune.manifest.fields import concept_key
from conceptprune.models.prompt import Prompt
from conceptprune.prompts.pairs import THINGS, prompt_pairs

GROUPS: tuple[Group, ...] = ("erased", "retained", "general")


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One image that a suite asks of every checkpoint."""

    group: Group
    name: str
    """The subject of its source: a concept or a data set."""
    prompt: Prompt
    guidance: float
    labels: Labels = ()

    @property
    def case(self) -> Case:
        """The item as a scorer gets it."""
        return Case(text=self.prompt.text, seed=self.prompt.seed, labels=self.labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Text:
    text: str
    seed: int | None = None
    guidance: float | None = None
    labels: Labels = ()


def suite_items(suite: Suite) -> tuple[Item, ...]:
    """Every image the suite asks for, in its order; without duplicates within a source."""
    items: dict[Item, None] = {}
    for group in GROUPS:
        for source in getattr(suite.groups, group):
            for text in _texts(source, suite)[: source.limit]:
                for prompt in _prompts(text, suite.generation):
                    item = Item(
                        group=group,
                        name=source.title,
                        prompt=prompt,
                        guidance=suite.generation.guidance
                        if text.guidance is None
                        else text.guidance,
                        labels=text.labels,
                    )
                    items[item] = None
    return tuple(items)


def claimed_by(items: Iterable[Item], erased: Iterable[str]) -> frozenset[str]:
    """Which of the suite's erased concepts a checkpoint claims, in the form of `concept_key`.

    `erased` are the names that it says it erased. One that claims none is judged on all.
    """
    names = {concept_key(item.name) for item in items if item.group == "erased"}
    return frozenset(names.intersection(map(concept_key, erased)) or names)


def own_items(items: Sequence[Item], erased: Iterable[str]) -> tuple[Item, ...]:
    """The items without those of erased concepts that a checkpoint does not claim."""
    claimed = claimed_by(items, erased)
    return tuple(
        item for item in items if item.group != "erased" or concept_key(item.name) in claimed
    )


def with_defaults(
    concept: Concept, fillers: DefaultFillers, templates: DefaultTemplates
) -> Concept:
    """A concept with the file's fillers and template for its kind."""
    if concept.prompts:
        return concept
    kind = concept.kind
    return concept.model_copy(
        update={
            "fillers": concept.fillers or getattr(fillers, kind, None),
            "template": concept.template or getattr(templates, kind, None),
        }
    )


def derived_seed(seed: int, text: str) -> int:
    """A 32-bit seed from the two arguments only, so that every prompt has its own noise."""
    return seed_from(f"seed {seed} of {text}", bits=32)


def _prompts(text: _Text, generation: Generation) -> Iterator[Prompt]:
    if text.seed is not None:
        yield Prompt(text=text.text, seed=text.seed)
        return
    for seed in generation.seeds:
        own = derived_seed(seed, text.text) if generation.seed_of == "prompt" else seed
        yield Prompt(text=text.text, seed=own)


def _texts(source: Source, suite: Suite) -> Sequence[_Text]:
    if source.concept:
        return _of_concept(with_defaults(source.concept, suite.fillers, suite.templates))
    mine: Labels = ((source.domain, source.title),) if source.domain else ()
    if source.prompts:
        return [
            _Text(
                text=prompt.text,
                seed=prompt.seed,
                guidance=prompt.guidance,
                labels=tuple(sorted((dict[str, str](mine) | {**prompt.labels}).items())),
            )
            for prompt in source.prompts
        ]
    path, is_csv = (source.csv, True) if source.csv else (source.file, False)
    return [
        _Text(text=row.text, seed=row.seed, guidance=row.guidance, labels=mine)
        for row in file_prompts(Path(path or ""), csv_file=is_csv, limit=source.limit)
    ]


def _of_concept(concept: Concept) -> list[_Text]:
    """The prompts with the concept: the target of each pair."""
    texts = [pair.target.text for pair in prompt_pairs(concept, seed=0)]
    seeds = [prompt.seed for prompt in concept.prompts] if concept.prompts else [None] * len(texts)
    return [
        _Text(text=text, seed=seed, labels=labels_of(concept, index))
        for index, (text, seed) in enumerate(zip(texts, seeds, strict=True))
    ]


def labels_of(concept: Concept, index: int) -> Labels:
    """What the image of a concept's `index`-th prompt should show."""
    match concept.kind:
        case "object":
            return (("object", concept.name),)
        case "style" if concept.prompts is None:
            # The thing generated in the style: an accuracy in the other domain.
            filler = (concept.fillers or THINGS)[index]
            shown = (("object", filler),) if isinstance(filler, str) else ()
            return (*shown, ("style", concept.name))
        case "style":
            return (("style", concept.name),)
    return ()
