"""Units of work: what there is to compute, its identity, and what it needs first.

A unit's key is the digest of everything that decides its result and of nothing else, so the plan of
a job is known before it runs, equal work is shared, and a rerun subtracts what the store has.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from conceptprune.digest import unit_key
from conceptprune.manifest import Concept
from conceptprune.model_source import ModelSource
from conceptprune.prompts import Prompt
from conceptprune.settings import BaseRule, CollectionSettings, SelectionSettings, Window

Need = tuple[str, str]
"""(kind, key) of a unit that must be committed first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """The model of a job and how workers load it."""

    source: ModelSource
    identity: str
    """Digest of the model's files (`families.stable_diffusion.identity`)."""
    dtype: Literal["float16", "bfloat16", "float32"]
    device: Literal["auto", "cpu", "cuda"]
    scheduler: str | None = None

    @property
    def key_parts(self) -> dict[str, Any]:
        """What of it decides results; the device and the folder do not."""
        return {"model": self.identity, "dtype": self.dtype, "scheduler": self.scheduler}


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptsWork:
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
class WindowWork:
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
class SideWork:
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
class MaskWork:
    """Select the weights that draw one concept."""

    key: str
    concept: str
    target: str
    base: str
    retained: tuple[str, ...]
    """Keys of the sides to compare; `retained` are other concepts' target sides."""
    rule: BaseRule
    selection: SelectionSettings
    site: str
    provenance: Mapping[str, Any] = field(hash=False)
    """What the mask file records beside the settings."""
    kind: Literal["mask"] = "mask"

    @property
    def needs(self) -> tuple[Need, ...]:
        """The sides it compares."""
        return tuple(("statistics", key) for key in (self.target, self.base, *self.retained))


@dataclass(frozen=True, slots=True, kw_only=True)
class FuseWork:
    """Unite masks into one."""

    key: str
    masks: tuple[str, ...]
    kind: Literal["mask"] = "mask"

    @property
    def needs(self) -> tuple[Need, ...]:
        """The masks to unite."""
        return tuple(("mask", key) for key in self.masks)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointWork:
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
class PreviewWork:
    """Draw prompts with the model as it is or with one mask applied, and judge the images."""

    key: str
    mask: str | None
    prompts: tuple[Prompt, ...]
    steps: int
    guidance: float
    batch_size: int
    judge: Literal["studio"] | None
    kind: Literal["preview"] = "preview"

    @property
    def needs(self) -> tuple[Need, ...]:
        """The mask, if one is applied."""
        return () if self.mask is None else (("mask", self.mask),)


Work = PromptsWork | WindowWork | SideWork | MaskWork | FuseWork | CheckpointWork | PreviewWork


def needs_denoiser(work: Work) -> bool:
    """Whether a unit runs the denoiser, and so belongs on a worker that keeps it loaded."""
    return work.kind in ("window", "preview")


def window_units(
    model: ModelSettings,
    prompts: tuple[Prompt, ...],
    settings: CollectionSettings,
    *,
    shard_prompts: int,
    window: int | None,
) -> tuple[SideWork, tuple[WindowWork, ...]]:
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
    units: list[WindowWork] = []
    for first in range(0, len(prompts), shard_prompts):
        shard = prompts[first : first + shard_prompts]
        shard_json = [[prompt.text, prompt.seed] for prompt in shard]
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
                WindowWork(
                    key=key,
                    prompts=shard,
                    window=Window(start, stop),
                    previous=keys[-1] if keys else None,
                    last=last,
                )
            )
            keys.append(key)
        grid.append(tuple(keys))
    every_prompt = [[prompt.text, prompt.seed] for prompt in prompts]
    side = SideWork(
        key=unit_key(
            {
                "kind": "statistics",
                **common,
                "prompts": every_prompt,
                "tau": settings.tau,
                "shard_prompts": shard_prompts,
            }
        ),
        grid=tuple(grid),
        num_prompts=len(prompts),
        prompts_digest=unit_key({"prompts": every_prompt}),
    )
    return side, tuple(units)
