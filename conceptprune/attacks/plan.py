"""From a suite, its checkpoints and the named attacks to the units of an attack job."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from conceptprune.attacks.attempts import SCHEMA
from conceptprune.attacks.table import ATTACKS, Attack
from conceptprune.attacks.units import (
    AttackedCheckpoint,
    AttackSummaryUnit,
    AttackUnit,
    Judgement,
    Victim,
)
from conceptprune.digest import unit_key
from conceptprune.errors import UserError
from conceptprune.evaluation.attack_settings import Attacks
from conceptprune.evaluation.checkpoint import Checkpoint, ImageModel
from conceptprune.evaluation.items import Item, suite_items, with_defaults
from conceptprune.evaluation.plan import checkpoint_json, images_unit, shards_of
from conceptprune.evaluation.scorers.base import Facts
from conceptprune.evaluation.suite import Source, Suite, erased_domain
from conceptprune.evaluation.summary import SCHEMA as SUMMARY
from conceptprune.evaluation.units import ImagesUnit
from conceptprune.manifest.fields import concept_key
from conceptprune.models.prompt import Prompt
from conceptprune.prompts.pairs import PromptPair, prompt_pairs
from conceptprune.units.unit_plan import Planner, UnitPlan, labels_of

ORDER = (ImagesUnit, AttackUnit, AttackSummaryUnit)
"""Kinds of units in the preferred order of computation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackPlan(UnitPlan):
    """Everything an attack job will do; labels are those of the checkpoints.

    The base's images are the same units as in an evaluation of the suite. The cost of an attack is
    known only afterwards.
    """

    summary: AttackSummaryUnit


def judgement(suite: Suite, facts: Sequence[Facts]) -> Judgement:
    """The rule for when an image shows an erased concept, by the suite's scorers.

    Raises:
        UserError: the named scorer or metric is not in the suite, or no scorer can decide.
    """
    asked = suite.attacks.judged
    domain = erased_domain(suite.groups)
    for scorer, fact in zip(suite.scorers, facts, strict=True):
        if scorer.of_sets or scorer.compares:
            continue
        for metric, how in scorer.metrics.items():
            named = asked and (scorer.title, metric) == (asked.scorer, asked.metric)
            if named or (asked is None and how.better("erased", domain) == "lower"):
                at_least = asked.at_least if asked else 0.5
                return Judgement(scorer=scorer, facts=fact, metric=metric, at_least=at_least)
    wanted = f"{asked.scorer}'s {asked.metric}" if asked else "a metric that falls with erasure"
    raise UserError(
        f"attacks.judged: {wanted} is needed to say when an attack succeeds, and none of the "
        f"suite's scorers ({', '.join(scorer.title for scorer in suite.scorers)}) has it for "
        "single images"
    )


def build_plan(
    suite: Suite,
    base: ImageModel,
    checkpoints: Sequence[Checkpoint],
    names: Sequence[str],
    judged: Judgement,
) -> AttackPlan:
    """The plan of an attack job: each checkpoint, attack and concept that the checkpoint erased.

    A checkpoint that does not say what it erased is attacked with all erased concepts of the suite.

    Raises:
        UserError: the suite has no prompts of any concept that a checkpoint erased.
    """
    return _AttackPlanner(suite, base, names, judged).plan(checkpoints)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """One erased concept of the suite, with prompts of one guidance scale."""

    concept: str
    guidance: float
    victims: tuple[Victim, ...]
    examples: tuple[PromptPair, ...]


class _AttackPlanner(Planner):
    """Gathers the units of an attack job."""

    def __init__(
        self, suite: Suite, base: ImageModel, names: Sequence[str], judged: Judgement
    ) -> None:
        super().__init__()
        self.suite = suite
        self.settings: Attacks = suite.attacks
        self.names = tuple(dict.fromkeys(names))
        self.judged = judged
        items = suite_items(suite)
        self.targets = [
            target
            for source in suite.groups.erased
            for target in self.of_source(source, [i for i in items if _is_of(i, source)])
        ]
        self.shards = [
            (shard, images_unit(shard, base, suite.generation))
            for shard in shards_of(items, suite.generation.shard_prompts)
        ]

    def plan(self, checkpoints: Sequence[Checkpoint]) -> AttackPlan:
        attacked = tuple(self.checkpoint(each) for each in checkpoints)
        settings = tuple((name, ATTACKS[name].settings(self.settings)) for name in self.names)
        content = {
            "suite": self.suite.name,
            "start": self.settings.start,
            "settings": [[name, each.model_dump(mode="json")] for name, each in settings],
            "checkpoints": [[checkpoint_json(each.checkpoint), each.attempts] for each in attacked],
            "judged": [self.judged.key_parts, self.judged.shown],
        }
        formats = [_format(SCHEMA), _format(SUMMARY)]
        key = unit_key({"kind": "attack-summary", "formats": formats, **content})
        summary = self.add(
            AttackSummaryUnit(
                key=key,
                suite=self.suite.name,
                checkpoints=attacked,
                settings=settings,
                start=self.settings.start,
                judgement=self.judged,
            )
        )
        by_key = self.in_order(*ORDER)
        labelled = ((each.checkpoint.label, each.keys) for each in attacked)
        return AttackPlan(
            run=key[:16], by_key=by_key, labels=labels_of(by_key, labelled), summary=summary
        )

    def of_source(self, source: Source, items: Sequence[Item]) -> Iterator[_Target]:
        """The attacked prompts of one source, by guidance scale."""
        plain, examples = self.plain_texts(source)
        items = items[: self.settings.prompts]
        ordered = sorted(items, key=lambda item: item.guidance)
        for guidance, same in groupby(ordered, key=lambda item: item.guidance):
            victims = tuple(
                self.victim(item, plain.get(item.prompt.text), source.title) for item in same
            )
            yield _Target(
                concept=source.title, guidance=guidance, victims=victims, examples=examples
            )

    def victim(self, item: Item, plain: str | None, name: str) -> Victim:
        if plain is None:
            plain = " ".join(item.prompt.text.replace(name, "").split())
        start = item.prompt
        if self.settings.start == "plain":
            start = Prompt(text=plain, seed=item.prompt.seed)
        return Victim(plain=plain, start=start, named=item.prompt, case=item.case)

    def plain_texts(self, source: Source) -> tuple[dict[str, str], tuple[PromptPair, ...]]:
        """The texts without the concept of a source's generated prompts, and all its pairs."""
        if source.concept is None:
            return {}, ()
        concept = with_defaults(source.concept, self.suite.fillers, self.suite.templates)
        pairs = tuple(prompt_pairs(concept, seed=0))
        return {pair.target.text: pair.base.text for pair in pairs}, pairs

    def checkpoint(self, checkpoint: Checkpoint) -> AttackedCheckpoint:
        claimed = {concept_key(name) for name in checkpoint.erased}
        targets = [t for t in self.targets if not claimed or concept_key(t.concept) in claimed]
        if not targets:
            raise UserError(
                f"--of {checkpoint.label}: it erased {', '.join(checkpoint.erased)}, of which the "
                f"suite {self.suite.name} has no prompts under groups.erased"
            )
        attempts: dict[tuple[str, str], list[str]] = {}
        for name in self.names:
            for target in targets:
                keys = attempts.setdefault((name, target.concept), [])
                keys += self.units(checkpoint, name, target)
        return AttackedCheckpoint(
            checkpoint=checkpoint,
            attempts=tuple((*where, tuple(keys)) for where, keys in attempts.items()),
        )

    def units(self, checkpoint: Checkpoint, name: str, target: _Target) -> Iterator[str]:
        """Keys of the units of one attack on one concept."""
        attack = ATTACKS[name]
        if attack.alone:
            for victim in target.victims:
                yield self.unit(checkpoint, name, attack, target, (victim,))
        else:
            yield self.unit(checkpoint, name, attack, target, target.victims)

    def unit(
        self,
        checkpoint: Checkpoint,
        name: str,
        attack: Attack,
        target: _Target,
        victims: tuple[Victim, ...],
    ) -> str:
        settings = attack.settings(self.settings)
        generation = self.suite.generation
        base_images = tuple(self.base_images(target, victims)) if attack.needs_images else ()
        key = unit_key(
            {
                "kind": "attack",
                "format": _format(SCHEMA),
                **checkpoint.image_model.key_parts,
                "attack": name,
                "settings": settings.model_dump(mode="json"),
                "concept": target.concept,
                "victims": [victim.key_parts for victim in victims],
                "examples": [asdict(pair) for pair in target.examples],
                "images": base_images,
                "steps": generation.steps,
                "guidance": target.guidance,
                "batch_size": generation.batch_size,
                "judged": self.judged.key_parts,
            }
        )
        unit = AttackUnit(
            key=key,
            image_model=checkpoint.image_model,
            attack=name,
            settings=settings,
            concept=target.concept,
            victims=victims,
            examples=target.examples,
            base_images=base_images,
            steps=generation.steps,
            guidance=target.guidance,
            batch_size=generation.batch_size,
            judgement=self.judged,
        )
        return self.add(unit).key

    def base_images(self, target: _Target, victims: Sequence[Victim]) -> Iterator[str]:
        """Keys of the base's units that contain the victims' images."""
        wanted = {victim.named for victim in victims}
        for shard, unit in self.shards:
            if shard.guidance == target.guidance and not wanted.isdisjoint(shard.prompts):
                yield self.add(unit).key


def _is_of(item: Item, source: Source) -> bool:
    return item.group == "erased" and item.name == source.title


def _format(schema: Any) -> str:
    text: str = schema.metadata[b"conceptprune.format"].decode()
    return text
