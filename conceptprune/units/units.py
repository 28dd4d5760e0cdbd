"""Units of work: what there is to compute, its identity, and what it needs first.

A unit's key is the digest of everything that decides its result and of nothing else, so the plan of
a job is known before it runs, equal work is shared, and a rerun subtracts what the store has.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from conceptprune.collection.settings import CollectionSettings, Window
from conceptprune.digest import unit_key
from conceptprune.manifest import Concept, SelectorName
from conceptprune.masks.settings import BaseRule
from conceptprune.models.prompt import Prompt
from conceptprune.models.source import ModelSettings
from conceptprune.prompts.fillers import GeneratorSettings

if TYPE_CHECKING:
    # These import torch, which a driver that only hands units out does without.
    from conceptprune.masks.fusion import Fusion
    from conceptprune.masks.selectors import Settings

Need = tuple[str, str]
"""(kind, key) of a unit that must be committed first."""

APPLIED = "edit"
"""What a commit calls an object that its unit applied and did not make: kept as long as it is."""

WARM_KINDS = (
    "generated-prompts",
    "window",
    "preview",
    "images",
    "scores",
    "set-scores",
    "attack",
)
"""Kinds of units that run a network: the denoiser, a scorer's, or the language model's."""


class Unit(Protocol):
    """What a scheduler, a store and a ledger know of any unit of work."""

    @property
    def kind(self) -> str:
        """What sort of work it is."""

    @property
    def key(self) -> str:
        """Digest of everything that decides its result."""

    @property
    def needs(self) -> tuple[Need, ...]:
        """Units that must be committed first."""


@runtime_checkable
class Detailed(Protocol):
    """A unit that says itself, in a few words, what it is about."""

    @property
    def detail(self) -> str:
        """What it is about, beside its kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptsUnit:
    """Make the prompt pairs of a few concepts."""

    concepts: tuple[Concept, ...]
    seed: int
    needs: tuple[Need, ...] = ()
    kind: Literal["prompts"] = "prompts"

    @property
    def key(self) -> str:
        """Identity: the concepts as validated, and the collection seed."""
        concepts = [concept.model_dump(mode="json") for concept in self.concepts]
        return unit_key({"kind": self.kind, "concepts": concepts, "seed": self.seed})


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedPromptsUnit:
    """Have a language model write one concept's fillers, and make its prompt pairs of them."""

    concept: Concept
    seed: int
    generator: GeneratorSettings
    needs: tuple[Need, ...] = ()
    kind: Literal["generated-prompts"] = "generated-prompts"

    @property
    def key(self) -> str:
        """Identity: the concept as validated, the collection seed, and all the answers hang on."""
        return unit_key(
            {
                "kind": self.kind,
                "concept": self.concept.model_dump(mode="json"),
                "seed": self.seed,
                "question": self.generator.question(self.concept),
                **{f"generator.{name}": v for name, v in self.generator.key_parts.items()},
            }
        )


AnyPromptsUnit = PromptsUnit | GeneratedPromptsUnit


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowUnit:
    """Collect one shard of one side over one window of denoiser calls."""

    key: str
    prompts: tuple[Prompt, ...]
    window: Window
    previous: str | None
    """Key of the window before this one, whose states it goes on from."""
    last: bool
    """No window follows, so no state is kept."""
    kind: Literal["window"] = "window"

    @property
    def needs(self) -> tuple[Need, ...]:
        """The previous window of the same shard."""
        return () if self.previous is None else (("window", self.previous),)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatisticsUnit:
    """Reduce one side's windows and shards, in canonical order."""

    key: str
    grid: tuple[tuple[str, ...], ...]
    """Window keys of each shard: shards in prompt order, windows in call order."""
    num_prompts: int
    prompts_digest: str
    kind: Literal["statistics"] = "statistics"

    @property
    def needs(self) -> tuple[Need, ...]:
        """Every window of every shard."""
        return tuple(("window", key) for shard in self.grid for key in shard)


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskUnit:
    """Select the weights that draw one concept."""

    key: str
    concept: str
    target: str
    base: str
    retained: tuple[str, ...]
    """Keys of the sides to compare; `retained` are other concepts' target sides."""
    rule: BaseRule
    selector: SelectorName
    selection: "Settings"
    site: str | tuple[str, ...]
    provenance: Mapping[str, Any] = field(hash=False)
    """What the mask file records beside the settings."""
    kind: Literal["mask"] = "mask"

    @property
    def needs(self) -> tuple[Need, ...]:
        """The sides it compares."""
        return tuple(("statistics", key) for key in (self.target, self.base, *self.retained))


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepUnit:
    """Select one concept's weights under several settings, and say how many and which."""

    mask: MaskUnit
    """The concept's mask with the manifest's own settings, to compare with."""
    selector: SelectorName
    settings: "tuple[Settings, ...]"
    kind: Literal["sweep"] = "sweep"

    @property
    def key(self) -> str:
        """Identity: what is compared with, and the settings."""
        settings = [asdict(setting) for setting in self.settings]
        return unit_key(
            {
                "kind": self.kind,
                "mask": self.mask.key,
                "selector": self.selector,
                "settings": settings,
            }
        )

    @property
    def needs(self) -> tuple[Need, ...]:
        """The mask and what it needs itself."""
        return (("mask", self.mask.key), *self.mask.needs)


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepTableUnit:
    """Put the rows of all concepts and settings into one table."""

    sweeps: tuple[str, ...]
    kind: Literal["sweep-table"] = "sweep-table"

    @property
    def key(self) -> str:
        """Identity: the parts, in order."""
        return unit_key({"kind": self.kind, "sweeps": list(self.sweeps)})

    @property
    def needs(self) -> tuple[Need, ...]:
        """Every part."""
        return tuple(("sweep", key) for key in self.sweeps)


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedMaskUnit:
    """Make one mask of several."""

    masks: tuple[str, ...]
    fusion: "Fusion"
    sides: tuple[tuple[str, str], ...] = ()
    """For a budget: each mask's (target, base) statistics."""
    retained: tuple[tuple[str, str], ...] = ()
    """For a budget: (target, base) statistics of the concepts to spare."""
    tau: int | None = None
    """For a budget: the calls to look at."""
    kind: Literal["mask"] = "mask"

    @property
    def key(self) -> str:
        """Identity: the masks and, for a budget, what it is spent by."""
        fields = asdict(self)
        return unit_key({**fields, "kind": "fuse"})

    @property
    def needs(self) -> tuple[Need, ...]:
        """The masks, and for a budget the statistics."""
        sides = dict.fromkeys(key for pair in (*self.sides, *self.retained) for key in pair)
        return (
            *(("mask", key) for key in self.masks),
            *(("statistics", key) for key in sides),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointUnit:
    """Emit the model without one mask's weights."""

    key: str
    mask: str
    form: Literal["delta", "pipeline"]
    kind: Literal["checkpoint"] = "checkpoint"

    @property
    def needs(self) -> tuple[Need, ...]:
        """The mask."""
        return (("mask", self.mask),)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewUnit:
    """Draw prompts with the model as it is or with one mask applied, and judge the images."""

    key: str
    mask: str | None
    prompts: tuple[Prompt, ...]
    steps: int
    guidance: float
    batch_size: int
    judge: Literal["studio"] | None
    before: tuple[str, ...] = ()
    """Keys of the same images without the mask, which some image must differ from. They follow
    from the rest, and are no part of the key."""
    kind: Literal["preview"] = "preview"

    @property
    def needs(self) -> tuple[Need, ...]:
        """The mask, if one is applied, and the images without it."""
        mask = () if self.mask is None else (("mask", self.mask),)
        return (*mask, *(("preview", key) for key in self.before))


AnyUnit = (
    PromptsUnit
    | GeneratedPromptsUnit
    | WindowUnit
    | StatisticsUnit
    | MaskUnit
    | SweepUnit
    | SweepTableUnit
    | FusedMaskUnit
    | CheckpointUnit
    | PreviewUnit
)


def needs_denoiser(unit: Unit) -> bool:
    """Whether a unit belongs on a worker that keeps a network loaded: the denoiser, as a rule."""
    return unit.kind in WARM_KINDS


def window_units(
    model: ModelSettings,
    prompts: tuple[Prompt, ...],
    settings: CollectionSettings,
    *,
    shard_prompts: int,
    window: int | None,
) -> tuple[StatisticsUnit, tuple[WindowUnit, ...]]:
    """The units of one side: its shards' windows, and the reduction over them."""
    common = {
        **model.key_parts,
        "steps": settings.steps,
        "guidance": settings.guidance,
        "halves": settings.halves,
        "batch_size": settings.batch_size,
        "site": settings.site,
    }
    length = window or settings.tau
    grid: list[tuple[str, ...]] = []
    units: list[WindowUnit] = []
    for first in range(0, len(prompts), shard_prompts):
        shard = prompts[first : first + shard_prompts]
        shard_json = _prompts_json(shard)
        keys: list[str] = []
        for start in range(0, settings.tau, length):
            stop = min(start + length, settings.tau)
            last = stop == settings.tau
            # The windows before it are not named: they cannot change a bit of this one. Whether
            # it keeps its state is, because a unit's objects follow from its key.
            key = unit_key(
                {
                    "kind": "window",
                    **common,
                    "prompts": shard_json,
                    "window": [start, stop],
                    "keeps_state": not last,
                }
            )
            units.append(
                WindowUnit(
                    key=key,
                    prompts=shard,
                    window=Window(start, stop),
                    previous=keys[-1] if keys else None,
                    last=last,
                )
            )
            keys.append(key)
        grid.append(tuple(keys))
    side = StatisticsUnit(
        key=unit_key(
            {
                "kind": "statistics",
                **common,
                "prompts": _prompts_json(prompts),
                "tau": settings.tau,
                "shard_prompts": shard_prompts,
            }
        ),
        grid=tuple(grid),
        num_prompts=len(prompts),
        prompts_digest=prompts_digest(prompts),
    )
    return side, tuple(units)


def prompts_digest(prompts: Sequence[Prompt]) -> str:
    """SHA-256 that names prompts and their seeds, in their order: what a side is of."""
    return unit_key({"prompts": _prompts_json(prompts)})


def _prompts_json(prompts: Sequence[Prompt]) -> list[list[str | int]]:
    return [[prompt.text, prompt.seed] for prompt in prompts]
