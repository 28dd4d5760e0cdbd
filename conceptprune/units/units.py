"""The kinds of units of an erase job: what each computes, its key, and what it needs first."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from conceptprune.collection.window import Window
from conceptprune.digest import unit_key
from conceptprune.manifest import Collection, Concept, Fuse, Generator, Pruning
from conceptprune.models.prompt import Prompt
from conceptprune.prompts.fillers import question_about
from conceptprune.prompts.pairs import prompt_pairs
from conceptprune.units.unit import Need, Unit

if TYPE_CHECKING:
    # These import torch, which a driver that only hands out units does not need.
    from conceptprune.units.sizes import Sizes


def _prompts_of(concept: Concept) -> dict[str, Any]:
    """Everything about a concept that decides its prompts, as JSON."""
    return concept.model_dump(mode="json", exclude={"pruning"})


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptsUnit(Unit):
    """Make the prompt pairs of a few concepts."""

    concepts: tuple[Concept, ...]
    seed: int

    @property
    def key(self) -> str:
        """Identity: the concepts as validated, and the collection seed."""
        concepts = [_prompts_of(concept) for concept in self.concepts]
        return unit_key({"kind": "prompts", "concepts": concepts, "seed": self.seed})

    def bytes_written(self, sizes: "Sizes", units: Mapping[str, Unit]) -> int:
        """A table of the texts."""
        pairs = [pair for each in self.concepts for pair in prompt_pairs(each, seed=self.seed)]
        texts = sum(len((pair.base.text + pair.target.text).encode()) for pair in pairs)
        return sizes.table(len(pairs)) + texts


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedPromptsUnit(Unit):
    """Have a language model write one concept's fillers, and make its prompt pairs from them."""

    warm = True

    concept: Concept
    seed: int
    generator: Generator
    language_model: str
    """Digest of the language model's files."""

    @property
    def key(self) -> str:
        """Identity: the concept as validated, the seed, and everything that decides answers."""
        return unit_key(
            {
                "kind": "generated-prompts",
                "concept": _prompts_of(self.concept),
                "seed": self.seed,
                "question": question_about(self.concept, self.generator),
                "generator.identity": self.language_model,
                **{f"generator.{name}": v for name, v in self.generator.key_parts.items()},
            }
        )

    def bytes_written(self, sizes: "Sizes", units: Mapping[str, Unit]) -> int:
        """A table of the texts and one of the answers, with the question."""
        question = len(question_about(self.concept, self.generator).encode())
        return 2 * sizes.table(self.generator.per_concept) + question


AnyPromptsUnit = PromptsUnit | GeneratedPromptsUnit
PROMPTS_KINDS = (PromptsUnit.kind, GeneratedPromptsUnit.kind)
"""Kinds of units that make prompts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowUnit(Unit):
    """Collect one shard of one side over one window of denoiser calls."""

    title = "Collection"
    warm = True
    intermediate = True

    key: str
    prompts: tuple[Prompt, ...]
    window: Window
    collection: Collection
    site: str | tuple[str, ...]
    branches: int
    """Guidance branches of a denoiser call: 2 with classifier-free guidance, else 1."""
    previous: str | None
    """Key of the previous window, whose states it continues from."""
    last: bool
    """True if no window follows, so that no state is kept."""

    @property
    def needs(self) -> tuple[Need, ...]:
        """The previous window of the same shard."""
        return () if self.previous is None else ((WindowUnit.kind, self.previous),)

    @property
    def detail(self) -> str:
        """How many prompts, and which calls."""
        return f"{len(self.prompts)} prompts, calls {self.window.start}-{self.window.stop - 1}"

    @property
    def evaluations(self) -> int:
        """Prompts x guidance branches x calls of the window."""
        return len(self.prompts) * self.branches * self._num_calls

    def bytes_written(self, sizes: "Sizes", units: Mapping[str, Unit]) -> int:
        """Statistics, and unless it is the last window the state of each prompt."""
        states = 0 if self.last else sizes.states(len(self.prompts))
        return sizes.statistics(self._num_calls) + states

    @property
    def _num_calls(self) -> int:
        return self.window.stop - self.window.start


@dataclass(frozen=True, slots=True, kw_only=True)
class StatisticsUnit(Unit):
    """Reduce one side's windows and shards, in canonical order."""

    intermediate = True

    key: str
    grid: tuple[tuple[str, ...], ...]
    """Window keys of each shard: shards in prompt order, windows in call order."""
    num_prompts: int
    num_calls: int
    """Denoiser calls, over all windows."""
    prompts_digest: str

    @property
    def needs(self) -> tuple[Need, ...]:
        """Every window of every shard."""
        return tuple((WindowUnit.kind, key) for shard in self.grid for key in shard)

    def bytes_written(self, sizes: "Sizes", units: Mapping[str, Unit]) -> int:
        """Statistics of all calls."""
        return sizes.statistics(self.num_calls)


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskUnit(Unit):
    """Select the weights that generate one concept."""

    title = "Masks"

    key: str
    concept: str
    target: str
    base: str
    retained: tuple[str, ...]
    """Keys of the sides to compare: `retained` are other concepts' target sides."""
    pruning: Pruning
    num_calls: int
    """Number of denoiser calls with statistics; `pruning` may use fewer."""
    provenance: Mapping[str, Any] = field(hash=False)
    """What the mask file records besides the settings."""

    @property
    def erased(self) -> tuple[str, ...]:
        """The concept's name."""
        return (self.concept,)

    @property
    def needs(self) -> tuple[Need, ...]:
        """The sides it compares."""
        keys = (self.target, self.base, *self.retained)
        return tuple((StatisticsUnit.kind, key) for key in keys)

    @property
    def detail(self) -> str:
        """The concept's name."""
        return self.concept

    @property
    def mask_key(self) -> str:
        """Its own key."""
        return self.key

    def bytes_written(self, sizes: "Sizes", units: Mapping[str, Unit]) -> int:
        """As many entries as the settings allow."""
        return sizes.mask(self.most_entries(sizes))

    def most_entries(self, sizes: "Sizes") -> int:
        """The most entries that the settings allow."""
        tau = self.pruning.tau or self.num_calls
        most = self.pruning.most_entries
        return sum(most(rows, columns, tau) for rows, columns in sizes.shapes.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedMaskUnit(Unit):
    """Fuse several masks into one."""

    title = "Fused masks"
    former_kinds = ("mask",)

    masks: tuple[str, ...]
    erased: tuple[str, ...]
    """Name of each mask's concept, which the mask must bear. No part of the key, as masks have
    theirs in their own keys."""
    fusion: Fuse
    sides: tuple[tuple[str, str], ...] = ()
    """For a budget: each mask's (target, base) statistics."""
    retained: tuple[tuple[str, str], ...] = ()
    """For a budget: (target, base) statistics of the concepts to spare."""
    tau: int | None = None
    """For a budget: how many calls to use."""

    @property
    def key(self) -> str:
        """Identity: the masks and, for a budget, the statistics that decide how it is spent."""
        return unit_key(
            {
                "kind": "fuse",
                "masks": self.masks,
                "fusion": self.fusion.key_parts,
                "sides": self.sides,
                "retained": self.retained,
                "tau": self.tau,
            }
        )

    @property
    def needs(self) -> tuple[Need, ...]:
        """The masks, and for a budget the statistics."""
        sides = dict.fromkeys(key for pair in (*self.sides, *self.retained) for key in pair)
        return (
            *((MaskUnit.kind, key) for key in self.masks),
            *((StatisticsUnit.kind, key) for key in sides),
        )

    @property
    def detail(self) -> str:
        """How many masks."""
        return f"{len(self.masks)} masks together"

    @property
    def mask_key(self) -> str:
        """Its own key."""
        return self.key

    def bytes_written(self, sizes: "Sizes", units: Mapping[str, Unit]) -> int:
        """The entries of all its masks, up to the site's weights or the budget."""
        masks = (units[key] for key in self.masks)
        entries = sum(mask.most_entries(sizes) for mask in masks if isinstance(mask, MaskUnit))
        share = self.fusion.settings.get("fraction", 1.0)
        return sizes.mask(min(entries, int(share * sizes.num_weights)))


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointUnit(Unit):
    """Write the model without one mask's weights."""

    title = "Checkpoints"

    key: str
    mask: Need
    """The concept's mask, or the fused one."""
    erased: tuple[str, ...]
    """Names of the mask's concepts, which it must bear; they follow from its key."""
    form: Literal["delta", "pipeline"]

    @property
    def needs(self) -> tuple[Need, ...]:
        """The mask."""
        return (self.mask,)

    @property
    def detail(self) -> str:
        """The form."""
        return self.form

    @property
    def mask_key(self) -> str:
        """The mask that it applies."""
        return self.mask[1]

    def bytes_written(self, sizes: "Sizes", units: Mapping[str, Unit]) -> int:
        """A delta, or the files of a pipeline folder that hold pruned weights."""
        return sizes.delta() if self.form == "delta" else sizes.edited_bytes

    def bytes_shared(self, sizes: "Sizes") -> int:
        """The other files of a pipeline folder."""
        return sizes.same_bytes if self.form == "pipeline" else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewUnit(Unit):
    """Generate images with the base model, or with one mask applied."""

    title = "Images"
    warm = True

    key: str
    mask: Need | None
    """The concept's mask, the fused one, or none."""
    erased: tuple[str, ...]
    """Names of the mask's concepts, which it must bear; they follow from its key."""
    prompts: tuple[Prompt, ...]
    steps: int
    guidance: float
    branches: int
    """Guidance branches of a denoiser call: 2 with classifier-free guidance, else 1."""
    batch_size: int
    before: tuple[str, ...] = ()
    """Keys of the same images without the mask; at least one image must differ from these. They
    follow from the other fields, so they are not part of the key."""

    @property
    def needs(self) -> tuple[Need, ...]:
        """The mask, if one is applied, and the images without it."""
        mask = () if self.mask is None else (self.mask,)
        return (*mask, *((PreviewUnit.kind, key) for key in self.before))

    @property
    def detail(self) -> str:
        """How many images, before or after."""
        return f"{len(self.prompts)} images {'after' if self.mask else 'before'}"

    @property
    def mask_key(self) -> str | None:
        """The mask that it applies."""
        return self.mask and self.mask[1]

    @property
    def evaluations(self) -> int:
        """Prompts x guidance branches x steps."""
        return len(self.prompts) * self.branches * self.steps

    def bytes_written(self, sizes: "Sizes", units: Mapping[str, Unit]) -> int:
        """A table of the images."""
        return sizes.table(len(self.prompts), sizes.image_bytes)
