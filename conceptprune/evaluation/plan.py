"""From a suite and its checkpoints to the units of an evaluation."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from conceptprune.digest import unit_key
from conceptprune.errors import UserError
from conceptprune.evaluation.checkpoint import Checkpoint, ImageModel
from conceptprune.evaluation.items import Item, own_items, suite_items
from conceptprune.evaluation.scorers.base import Case, Facts, ScorerSettings
from conceptprune.evaluation.suite import Generation, Suite, erased_domain
from conceptprune.evaluation.summarise import scorer_key, scorer_settings
from conceptprune.evaluation.summary import SCHEMA
from conceptprune.evaluation.tables import IMAGES, SCORES, SET_SCORES
from conceptprune.evaluation.units import (
    Entry,
    EvaluationUnit,
    ImagesUnit,
    ScoredBy,
    ScoresUnit,
    SetScoresUnit,
)
from conceptprune.models.families import family_named
from conceptprune.models.prompt import Prompt
from conceptprune.units.unit_plan import Planner, UnitPlan, labels_of

ORDER = (ImagesUnit, ScoresUnit, SetScoresUnit, EvaluationUnit)
"""Kinds of units in the preferred order of computation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """Prompts of one unit of images, and what the images are scored for."""

    prompts: tuple[Prompt, ...]
    guidance: float
    cases: tuple[Case, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationPlan(UnitPlan):
    """Everything an evaluation will do; labels are those of the checkpoints."""

    evaluation: EvaluationUnit


def shards_of(items: Sequence[Item], size: int) -> tuple[Shard, ...]:
    """Every (prompt, seed) once, in the suite's order, in shards of equal guidance."""
    by_guidance: dict[float, dict[Prompt, dict[Case, None]]] = {}
    for item in items:
        prompts = by_guidance.setdefault(item.guidance, {})
        prompts.setdefault(item.prompt, {})[item.case] = None
    return tuple(
        Shard(
            prompts=tuple(prompts)[first : first + size],
            guidance=guidance,
            cases=tuple(
                case for cases in tuple(prompts.values())[first : first + size] for case in cases
            ),
        )
        for guidance, prompts in by_guidance.items()
        for first in range(0, len(prompts), size)
    )


def images_unit(shard: Shard, image_model: ImageModel, generation: Generation) -> ImagesUnit:
    """The unit that generates the images of a shard with one checkpoint."""
    key = unit_key(
        {
            "kind": "images",
            "format": _format(IMAGES),
            **image_model.key_parts,
            "prompts": _prompts_json(shard.prompts),
            "steps": generation.steps,
            "guidance": shard.guidance,
            "batch_size": generation.batch_size,
        }
    )
    return ImagesUnit(
        key=key,
        image_model=image_model,
        prompts=shard.prompts,
        steps=generation.steps,
        guidance=shard.guidance,
        branches=family_named(image_model.model.pipeline).num_branches(shard.guidance),
        batch_size=generation.batch_size,
    )


def build_plan(
    suite: Suite,
    base: ImageModel,
    checkpoints: Sequence[Checkpoint],
    facts: Sequence[Facts],
    *,
    own: bool = False,
) -> EvaluationPlan:
    """The plan of an evaluation; `facts` are the suite's scorers'.

    With `own`, no checkpoint is asked for an erased concept that it does not claim: a hundred masks
    and the prompts of a hundred concepts are a hundred sets of images then, not ten thousand.
    """
    return _EvaluationPlanner(suite, base, tuple(facts), own=own).plan(checkpoints)


class _EvaluationPlanner(Planner):
    """Gathers the units of an evaluation."""

    def __init__(
        self, suite: Suite, base: ImageModel, facts: tuple[Facts, ...], *, own: bool
    ) -> None:
        super().__init__()
        self.suite = suite
        self.base = base
        self.scorers: list[tuple[ScorerSettings, Facts]] = list(
            zip(suite.scorers, facts, strict=True)
        )
        self.items = suite_items(suite)
        self.own = own

    def plan(self, checkpoints: Sequence[Checkpoint]) -> EvaluationPlan:
        entries = tuple(self.entry(checkpoint) for checkpoint in checkpoints)
        unlearncanvas = "unlearncanvas" in self.suite.groupings
        erased = erased_domain(self.suite.groups)
        intervals = self.suite.intervals
        parts = {
            "kind": "evaluation",
            "format": _format(SCHEMA),
            "suite": self.suite.name,
            "entries": [
                {
                    "checkpoint": checkpoint_json(entry.checkpoint),
                    "images": entry.images,
                    "scored": [
                        [
                            scorer_settings(scored.scorer, scored.facts),
                            scored.scores,
                            scored.sets,
                        ]
                        for scored in entry.scored
                    ],
                }
                for entry in entries
            ],
            "items": [_item_json(item) for item in self.items],
            "intervals": intervals.model_dump(),
            "erased": erased,
            "unlearncanvas": unlearncanvas,
        }
        evaluation = self.add(
            EvaluationUnit(
                key=unit_key(parts),
                suite=self.suite.name,
                entries=entries,
                items=self.items,
                resamples=intervals.resamples,
                seed=intervals.seed,
                erased=erased,
                unlearncanvas=unlearncanvas,
            )
        )
        by_key = self.in_order(*ORDER)
        # The base model's images are also for the checkpoints compared with them.
        labelled = ((entry.checkpoint.label, [key for _, key in entry.needs]) for entry in entries)
        return EvaluationPlan(
            run=evaluation.key[:16],
            by_key=by_key,
            labels=labels_of(by_key, labelled),
            evaluation=evaluation,
        )

    def entry(self, checkpoint: Checkpoint) -> Entry:
        items = own_items(self.items, checkpoint.erased) if self.own else self.items
        shards = shards_of(items, self.suite.generation.shard_prompts)
        images = tuple(self.images_key(shard, checkpoint.image_model) for shard in shards)
        return Entry(
            checkpoint=checkpoint,
            images=images,
            scored=tuple(
                self.scored(settings, facts, items, shards, images)
                for settings, facts in self.scorers
            ),
            own=self.own,
        )

    def images_key(self, shard: Shard, image_model: ImageModel) -> str:
        return self.add(images_unit(shard, image_model, self.suite.generation)).key

    def references(self, shards: Sequence[Shard]) -> tuple[str, ...]:
        """The base model's images, generated even if it is not evaluated itself."""
        return tuple(self.images_key(shard, self.base) for shard in shards)

    def scored(
        self,
        settings: ScorerSettings,
        facts: Facts,
        items: Sequence[Item],
        shards: Sequence[Shard],
        images: tuple[str, ...],
    ) -> ScoredBy:
        references = self.references(shards) if settings.compares else ()
        if settings.of_sets:
            sets = tuple(self.set_scores(settings, facts, items, images, references))
            return ScoredBy(scorer=settings, facts=facts, sets=sets)
        paired = references or (None,) * len(images)
        scores = tuple(
            self.shard_scores(settings, facts, key, reference, shard)
            for key, reference, shard in zip(images, paired, shards, strict=True)
        )
        return ScoredBy(scorer=settings, facts=facts, scores=scores)

    def shard_scores(
        self,
        settings: ScorerSettings,
        facts: Facts,
        images: str,
        reference: str | None,
        shard: Shard,
    ) -> str:
        key = unit_key(
            {
                "kind": "scores",
                "format": _format(SCORES),
                "scorer": scorer_key(settings, facts),
                "images": images,
                "references": reference,
                "cases": [asdict(case) for case in shard.cases],
            }
        )
        unit = ScoresUnit(
            key=key,
            images=images,
            references=reference,
            scorer=settings,
            facts=facts,
            cases=shard.cases,
        )
        return self.add(unit).key

    def set_scores(
        self,
        settings: ScorerSettings,
        facts: Facts,
        items: Sequence[Item],
        images: tuple[str, ...],
        references: tuple[str, ...],
    ) -> Iterator[tuple[str, str]]:
        """One unit per group that has prompts: (group, key)."""
        for group in dict.fromkeys(item.group for item in items):
            prompts = tuple(dict.fromkeys(item.prompt for item in items if item.group == group))
            if len(prompts) < 2:
                raise UserError(
                    f"scorers: {settings.title} compares sets of images, and the group {group} "
                    "has one only: give it more prompts or seeds"
                )
            key = unit_key(
                {
                    "kind": "set-scores",
                    "format": _format(SET_SCORES),
                    "scorer": scorer_key(settings, facts),
                    "images": images,
                    "references": references,
                    "prompts": _prompts_json(prompts),
                }
            )
            unit = SetScoresUnit(
                key=key,
                images=images,
                references=references,
                scorer=settings,
                facts=facts,
                prompts=prompts,
            )
            yield group, self.add(unit).key


def _format(schema: Any) -> str:
    text: str = schema.metadata[b"conceptprune.format"].decode()
    return text


def _prompts_json(prompts: Sequence[Prompt]) -> list[list[Any]]:
    return [[prompt.text, prompt.seed] for prompt in prompts]


def _item_json(item: Item) -> dict[str, Any]:
    return asdict(item)


def checkpoint_json(checkpoint: Checkpoint) -> dict[str, Any]:
    """A checkpoint's fields in a summary."""
    return {
        "label": checkpoint.label,
        "kind": checkpoint.kind,
        "digest": checkpoint.digest,
        "erased": checkpoint.erased,
        "drawn": checkpoint.image_model.key_parts,
    }
