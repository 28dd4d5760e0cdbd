"""What looks at a job's previews: units that have a scorer see the images of one, and their worker.

They are done by the workers of the erase job, on the images that it keeps anyway.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Literal

from conceptprune.digest import unit_key
from conceptprune.evaluation.items import labels_of
from conceptprune.evaluation.scorers.base import Case, Facts, Labels, ScorerSettings
from conceptprune.evaluation.scoring import Scorers, read_rows
from conceptprune.evaluation.summarise import scorer_key, scorer_settings
from conceptprune.evaluation.tables import SCORES, scores_table
from conceptprune.manifest import Concept, Manifest
from conceptprune.models.images import read_picture
from conceptprune.models.prompt import Prompt
from conceptprune.prompts.fillers import asks_generator
from conceptprune.prompts.table import Pairs
from conceptprune.units.commit import Made
from conceptprune.units.plan import Plan
from conceptprune.units.units import Need, Unit
from conceptprune.units.worker import Worker


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewScoresUnit:
    """Have one scorer look at the images of one preview."""

    key: str
    preview: str
    scorer: ScorerSettings
    facts: Facts
    cases: tuple[Case, ...]
    kind: Literal["preview-scores"] = "preview-scores"

    @property
    def detail(self) -> str:
        """Whose scores."""
        return self.scorer.title

    @property
    def needs(self) -> tuple[Need, ...]:
        """The images."""
        return (("preview", self.preview),)


def with_scores(
    plan: Plan,
    manifest: Manifest,
    pairs: Pairs,
    scorers: Sequence[tuple[ScorerSettings, Facts]],
) -> Plan:
    """The plan, and each of `scorers` on each of its previews.

    `pairs` are the prompt pairs by concept name, retained ones too.
    """
    labels = _labels_by_text(manifest, pairs)
    units = tuple(
        _scores_unit(preview.key, scorer, facts, tuple(_cases(preview.prompts, labels)))
        for preview in plan.previews().values()
        for scorer, facts in scorers
    )
    return replace(plan, scores=units)


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
    """What the images of each prompt should show; of two meanings of a text, all that both say."""
    found: dict[str, dict[str, str]] = {}
    for concept in (*manifest.concepts, *manifest.retain):
        for index, pair in enumerate(pairs[concept.name]):
            labels = _labels(concept, index, manifest)
            # The base is the same without the concept.
            base = tuple(label for label in labels if label[1] != concept.name)
            for text, shown in ((pair.target.text, labels), (pair.base.text, base)):
                found.setdefault(text, {}).update(shown)
    return {text: tuple(sorted(shown.items())) for text, shown in found.items()}


def _labels(concept: Concept, index: int, manifest: Manifest) -> Labels:
    if manifest.prompts.generator is not None and asks_generator(concept):
        # What else is in such a prompt is a language model's choice, and no class of a scorer's.
        return (("style", concept.name),) if concept.kind == "style" else ()
    return labels_of(concept, index)


class ScoringWorker(Worker):
    """The worker of an erase job, with the scorers of its previews."""

    @cached_property
    def scorers(self) -> Scorers:
        """The scorers of this process."""
        return Scorers(self.device)

    def _make(self, unit: Unit) -> Made:  # type: ignore[override]
        if isinstance(unit, PreviewScoresUnit):
            return self._scores(unit)
        return super()._make(unit)  # type: ignore[arg-type]

    def _scores(self, unit: PreviewScoresUnit) -> Made:
        rows = read_rows(self.store, self.store.get("preview", unit.preview), "preview")
        drawn = {(row["prompt"], row["seed"]): row["png"] for row in rows}
        images = [read_picture(drawn[case.text, case.seed]) for case in unit.cases]
        readings = self.scorers.loaded(unit.scorer, unit.facts).score(images, unit.cases, None)
        table = scores_table(unit.cases, readings)
        return Made(
            objects={"scores": self._put_table("scores", table)},
            # For whoever reads the numbers: of what they are, and by what.
            facts={
                "preview": unit.preview,
                "title": unit.scorer.title,
                "settings": scorer_settings(unit.scorer, unit.facts),
            },
        )
