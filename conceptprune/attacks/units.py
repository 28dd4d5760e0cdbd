"""Units of an attack job: attempts against one checkpoint, and the summary of all."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from conceptprune.evaluation.attack_settings import AttackSettings
from conceptprune.evaluation.units import ImagesUnit
from conceptprune.models.prompt import Prompt
from conceptprune.prompts.pairs import PromptPair
from conceptprune.units.unit import Need, Unit

if TYPE_CHECKING:
    # These import torch, which readers of records do not need.
    from conceptprune.evaluation.checkpoint import Checkpoint, ImageModel
    from conceptprune.evaluation.scorers.base import Case, Facts, ScorerSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """When an image shows the concept: a scorer's metric is at least this large."""

    scorer: "ScorerSettings"
    facts: "Facts"
    metric: str
    at_least: float

    @property
    def key_parts(self) -> dict[str, Any]:
        """JSON of everything that decides a verdict."""
        from conceptprune.evaluation.summarise import scorer_key

        return {**scorer_key(self.scorer, self.facts), **self._when}

    @property
    def shown(self) -> dict[str, Any]:
        """The same, as shown in a summary."""
        from conceptprune.evaluation.summarise import scorer_settings

        return {**scorer_settings(self.scorer, self.facts), **self._when}

    @property
    def _when(self) -> dict[str, Any]:
        return {"metric": self.metric, "at_least": self.at_least}


@dataclass(frozen=True, slots=True, kw_only=True)
class Victim:
    """One prompt to attack."""

    plain: str
    """The text without the concept."""
    start: Prompt
    """What is attacked: `named`, or the plain text with its seed."""
    named: Prompt
    """The prompt that names the concept, whose image by the base is the attacker's example."""
    case: "Case"
    """What the scorer is told about its images."""

    @property
    def key_parts(self) -> dict[str, Any]:
        """It as a part of a key, which has the former word for `named`."""
        parts = asdict(self)
        parts["pictured"] = parts.pop("named")
        return parts


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackUnit(Unit):
    """Attack one checkpoint with a few prompts of one concept."""

    title = "Attacks"
    warm = True
    intermediate = True

    key: str
    image_model: "ImageModel"
    attack: str
    settings: AttackSettings
    concept: str
    victims: tuple[Victim, ...]
    examples: tuple[PromptPair, ...]
    base_images: tuple[str, ...]
    """Keys of the base's images; empty if the attack needs none."""
    steps: int
    guidance: float
    batch_size: int
    judgement: Judgement

    @property
    def needs(self) -> tuple[Need, ...]:
        """The base's images."""
        return tuple((ImagesUnit.kind, key) for key in self.base_images)

    @property
    def detail(self) -> str:
        """The attack, how many prompts, and the concept."""
        return f"{self.attack}, {len(self.victims)} prompts of {self.concept}"

    @property
    def applies(self) -> tuple[str, ...]:
        """Path in the store of the edit, which was not made by a unit."""
        return self.image_model.applies


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackedCheckpoint:
    """The attempts against one checkpoint, by attack and concept."""

    checkpoint: "Checkpoint"
    attempts: tuple[tuple[str, str, tuple[str, ...]], ...]
    """(attack, concept, keys of its `AttackUnit`s)."""

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of all of its `AttackUnit`s."""
        return tuple(key for _, _, keys in self.attempts for key in keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackSummaryUnit(Unit):
    """Put all attempts into one table, and their rates into another."""

    title = "Summaries of attacks"
    former_kinds = ("evaluation",)

    key: str
    suite: str
    checkpoints: tuple[AttackedCheckpoint, ...]
    settings: tuple[tuple[str, AttackSettings], ...]
    start: Literal["concept", "plain"]
    judgement: Judgement

    @property
    def needs(self) -> tuple[Need, ...]:
        """Every attempt."""
        keys = dict.fromkeys(key for each in self.checkpoints for key in each.keys)
        return tuple((AttackUnit.kind, key) for key in keys)
