"""Score a job's previews: one unit per scorer and preview on an erase job's plan."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace

from conceptprune.digest import unit_key
from conceptprune.evaluation.items import labels_of
from conceptprune.evaluation.scorers.base import Case, Facts, Labels, ScorerSettings
from conceptprune.evaluation.summarise import scorer_key
from conceptprune.evaluation.tables import SCORES
from conceptprune.evaluation.units import PreviewScoresUnit
from conceptprune.manifest import Concept, Manifest
from conceptprune.models.prompt import Prompt
from conceptprune.prompts.fillers import asks_generator
from conceptprune.prompts.table import Pairs
from conceptprune.units.plan import Plan
from conceptprune.units.units import PreviewUnit


def with_scores(
    plan: Plan,
    manifest: Manifest,
    pairs: Pairs,
    scorers: Sequence[tuple[ScorerSettings, Facts]],
) -> Plan:
    """The plan, plus one unit for each of `scorers` and each preview.

    `pairs` are the prompt pairs by concept name, retained ones too.
    """
    labels = _labels_by_text(manifest, pairs)
    units = [
        _scores_unit(preview.key, scorer, facts, tuple(_cases(preview.prompts, labels)))
        for preview in plan.of(PreviewUnit).values()
        for scorer, facts in scorers
    ]
    return replace(
        plan,
        by_key={**plan.by_key, **{unit.key: unit for unit in units}},
        labels={
            **plan.labels,
            # Units made from all masks together have no label.
            **{unit.key: found for unit in units if (found := plan.labels.get(unit.preview))},
        },
    )


def _scores_unit(
    preview: str, scorer: ScorerSettings, facts: Facts, cases: tuple[Case, ...]
) -> PreviewScoresUnit:
    key = unit_key(
        {
            "kind": "preview-scores",
            "format": SCORES.metadata[b"conceptprune.format"].decode(),
            "scorer": scorer_key(scorer, facts),
            "preview": preview,
            "cases": [asdict(case) for case in cases],
        }
    )
    return PreviewScoresUnit(key=key, preview=preview, scorer=scorer, facts=facts, cases=cases)


def _cases(prompts: Sequence[Prompt], labels: Mapping[str, Labels]) -> Iterator[Case]:
    for prompt in prompts:
        yield Case(text=prompt.text, seed=prompt.seed, labels=labels.get(prompt.text, ()))


def _labels_by_text(manifest: Manifest, pairs: Pairs) -> dict[str, Labels]:
    """What the images of each prompt should show; if a text occurs twice, the labels of both."""
    found: dict[str, dict[str, str]] = {}
    for concept in (*manifest.concepts, *manifest.retain):
        for index, pair in enumerate(pairs[concept.name]):
            labels = _labels(concept, index, manifest)
            # The base prompt is the same without the concept.
            base = tuple(label for label in labels if label[1] != concept.name)
            for text, shown in ((pair.target.text, labels), (pair.base.text, base)):
                found.setdefault(text, {}).update(shown)
    return {text: tuple(sorted(shown.items())) for text, shown in found.items()}


def _labels(concept: Concept, index: int, manifest: Manifest) -> Labels:
    if manifest.prompts.generator is not None and asks_generator(concept):
        # The rest of such a prompt comes from a language model, so no scorer has a class for it.
        return (("style", concept.name),) if concept.kind == "style" else ()
    return labels_of(concept, index)
