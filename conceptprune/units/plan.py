"""From a manifest and its prompts to all units of a run, known before the run starts."""

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from conceptprune.digest import unit_key
from conceptprune.manifest import Concept, Fuse, Manifest, Pruning
from conceptprune.manifest.model_settings import ModelSettings
from conceptprune.masks.neuron_table import FORMAT as NEURONS_FORMAT
from conceptprune.models.prompt import Prompt
from conceptprune.prompts.pairs import PromptPair
from conceptprune.units.preview_plan import Previews, preview_unit, retained_beside
from conceptprune.units.prompts_units import concepts_in
from conceptprune.units.reword_plan import reword_units
from conceptprune.units.reword_units import MomentsUnit, RewordUnit, ShiftUnit, VocabularyUnit
from conceptprune.units.run_id import run_id
from conceptprune.units.sweep_units import SweepTableUnit, SweepUnit
from conceptprune.units.unit_plan import Planner, UnitPlan, labels_of
from conceptprune.units.units import (
    AnyPromptsUnit,
    CheckpointUnit,
    FusedMaskUnit,
    GeneratedPromptsUnit,
    MaskUnit,
    PreviewUnit,
    PromptsUnit,
    StatisticsUnit,
    WindowUnit,
)
from conceptprune.units.window_units import window_units
from conceptprune.versions import versions

Combined = FusedMaskUnit | RewordUnit


@dataclass(frozen=True, slots=True, kw_only=True)
class ConceptPlan:
    """The units of one concept to erase."""

    concept: Concept
    pairs: tuple[PromptPair, ...]
    target: StatisticsUnit
    base: StatisticsUnit
    mask: MaskUnit
    checkpoints: tuple[CheckpointUnit, ...]
    previews_before: tuple[PreviewUnit, ...]
    preview_after: PreviewUnit | None
    sweeps: tuple[SweepUnit, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(UnitPlan):
    """Everything an `erase` run will do; units made from all masks together have no label."""

    model: ModelSettings
    concepts: tuple[ConceptPlan, ...]
    combined: Combined | None
    """What erases all concepts at once, if that is asked for."""
    combined_checkpoints: tuple[CheckpointUnit, ...]
    combined_previews: tuple[PreviewUnit, ...]
    """The same images as without it, unit by unit."""
    sweep_table: SweepTableUnit | None = None


ORDER = (
    PromptsUnit,
    GeneratedPromptsUnit,
    WindowUnit,
    StatisticsUnit,
    ShiftUnit,
    MomentsUnit,
    VocabularyUnit,
    MaskUnit,
    SweepUnit,
    SweepTableUnit,
    FusedMaskUnit,
    RewordUnit,
    CheckpointUnit,
    PreviewUnit,
)
"""Kinds of units in the preferred order of computation."""


def build_plan(
    manifest: Manifest,
    model: ModelSettings,
    pairs: Mapping[str, tuple[PromptPair, ...]],
    prompts: Sequence[AnyPromptsUnit] = (),
) -> Plan:
    """The plan of a run; `pairs` are the prompt pairs by concept name, retained ones too.

    `prompts` are the units that made these, or failed to; on the plan, so that they are recorded.
    """
    return _ErasePlanner(manifest, model, pairs).plan(prompts)


def plan_of_the_rest(
    manifest: Manifest,
    plan: Plan,
    pairs: Mapping[str, tuple[PromptPair, ...]],
    lacking: Container[str],
) -> Plan:
    """The plan with a fused mask of all concepts but `lacking`, and the units made from it.

    Units planned for all of them stay on the plan. `lacking` are names; at least one concept must
    be left.
    """
    return _ErasePlanner(manifest, plan.model, pairs).of_the_rest(plan, lacking)


class _ErasePlanner(Planner):
    """Gathers the units of an `erase` run."""

    def __init__(
        self,
        manifest: Manifest,
        model: ModelSettings,
        pairs: Mapping[str, tuple[PromptPair, ...]],
    ) -> None:
        super().__init__()
        self.manifest = manifest
        self.model = model
        self.pairs = pairs
        self.previews = Previews(manifest, model, pairs)

    def plan(self, prompts: Sequence[AnyPromptsUnit]) -> Plan:
        for unit in prompts:
            self.add(unit)
        concepts = tuple(self.concept(concept) for concept in self.manifest.concepts)
        combined = self.combined(concepts)
        checkpoints = self.checkpoints(combined) if combined else ()
        combined_previews = self.combined_previews(combined, concepts) if combined else ()
        sweep_table = self.sweep_table(concepts) if self.manifest.sweep else None
        # Images of the base model first: those with a mask are compared with them.
        own = chain.from_iterable(each.previews_before for each in concepts)
        for preview in (*self.previews.shared, *own):
            self.add(preview)
        for after in (*(each.preview_after for each in concepts), *combined_previews):
            if after:
                self.add(after)
        by_key = self.in_order(*ORDER)
        return Plan(
            run=run_id(self.manifest, self.model),
            by_key=by_key,
            labels=labels_of(by_key, self.labelled(concepts, combined, prompts)),
            model=self.model,
            concepts=concepts,
            combined=combined,
            combined_checkpoints=checkpoints,
            combined_previews=combined_previews,
            sweep_table=sweep_table,
        )

    def of_the_rest(self, plan: Plan, lacking: Container[str]) -> Plan:
        concepts = tuple(each for each in plan.concepts if each.concept.name not in lacking)
        combined = self.combined(concepts)
        checkpoints = self.checkpoints(combined) if combined else ()
        previews = self.combined_previews(combined, concepts) if combined else ()
        for preview in previews:
            self.add(preview)
        # The sides of a budget are already on the plan.
        return replace(
            plan,
            by_key={**plan.by_key, **self.in_order(*ORDER)},
            combined=combined,
            combined_checkpoints=checkpoints,
            combined_previews=previews,
        )

    def labelled(
        self,
        concepts: Sequence[ConceptPlan],
        combined: Combined | None,
        prompts: Sequence[AnyPromptsUnit],
    ) -> Iterator[tuple[str, list[str]]]:
        """Concept names, and the keys of the units that are for them."""
        for plan in concepts:
            units = [plan.mask, *plan.checkpoints, *plan.sweeps, *plan.previews_before]
            units += [plan.preview_after] if plan.preview_after else []
            yield plan.concept.name, [unit.key for unit in units]
        if isinstance(combined, RewordUnit):
            for name, shift in zip(combined.erased, combined.shifts, strict=True):
                yield name, [shift]
        erased = {plan.concept.name for plan in concepts}
        for unit in prompts:
            made = {concept.name for concept in concepts_in(unit)}
            for plan in concepts:
                # Units of a concept that is only retained are needed by all concepts compared with
                # it.
                compared = bool(plan.mask.retained or plan.previews_before)
                if plan.concept.name in made or (compared and made - erased):
                    yield plan.concept.name, [unit.key]

    def side(self, prompts: Sequence[Prompt]) -> StatisticsUnit:
        side, windows = window_units(
            self.model,
            tuple(prompts),
            self.manifest.collection,
            self.manifest.pruning.site,
        )
        for window in windows:
            self.add(window)
        return self.add(side)

    def concept(self, concept: Concept) -> ConceptPlan:
        pairs = self.pairs[concept.name]
        target = self.side([pair.target for pair in pairs])
        base = self.side([pair.base for pair in pairs])
        mask = self.mask(concept, target, base)
        preview = self.manifest.outputs.preview
        before: tuple[PreviewUnit, ...] = ()
        after = None
        if preview:
            before, after = self.previews.of(concept, mask, preview)
        return ConceptPlan(
            concept=concept,
            pairs=pairs,
            target=target,
            base=base,
            mask=mask,
            checkpoints=self.checkpoints(mask),
            previews_before=before,
            preview_after=after,
            sweeps=self.sweeps(mask),
        )

    def sweeps(self, mask: MaskUnit) -> tuple[SweepUnit, ...]:
        """One unit per selector and group of settings that one pass over the calls can compare."""
        if self.manifest.sweep is None:
            return ()
        passes: dict[tuple[Any, ...], list[Pruning]] = {}
        for pruning in self.manifest.sweep.settings(mask.pruning):
            shared = (pruning.selector, pruning.sparsity, pruning.r1, pruning.r2)
            passes.setdefault(shared, []).append(pruning)
        return tuple(
            self.add(SweepUnit(mask=mask, settings=tuple(group))) for group in passes.values()
        )

    def sweep_table(self, concepts: Sequence[ConceptPlan]) -> SweepTableUnit:
        sweeps = tuple(unit.key for plan in concepts for unit in plan.sweeps)
        return self.add(SweepTableUnit(sweeps=sweeps))

    def mask(self, concept: Concept, target: StatisticsUnit, base: StatisticsUnit) -> MaskUnit:
        pruning = self.manifest.pruning_of(concept)
        retained: tuple[StatisticsUnit, ...] = ()
        if pruning.base != "plain":
            retained = tuple(
                self.side([pair.target for pair in self.pairs[other.name]])
                for other in retained_beside(concept, self.manifest)
            )
        provenance = {
            "model": self.model.source.label,
            "revision": self.model.source.hub_revision,
            "model_digest": self.model.identity,
            "dtype": self.model.dtype,
            "scheduler": self.model.scheduler,
            "kind": concept.kind,
            "collection": self.manifest.collection.recorded(self.manifest.pruning.site),
            "seed": self.manifest.collection.seed,
            "selector": pruning.selector,
            "selection": pruning.selection,
            "base": pruning.base,
            "prompts_digest": {"target": target.prompts_digest, "base": base.prompts_digest},
            "versions": versions(),
        }
        keys = {
            "target": target.key,
            "base": base.key,
            "retained": [side.key for side in retained],
        }
        # Everything in the mask file is part of its identity, including versions: equal keys must
        # mean equal bytes.
        key = unit_key(
            {
                "kind": "mask",
                "concept": concept.name,
                **keys,
                "provenance": provenance,
                "table": NEURONS_FORMAT,
            }
        )
        return self.add(
            MaskUnit(
                key=key,
                concept=concept.name,
                target=target.key,
                base=base.key,
                retained=tuple(side.key for side in retained),
                pruning=pruning,
                num_calls=self.manifest.collection.tau,
                provenance=provenance,
            )
        )

    def combined(self, concepts: Sequence[ConceptPlan]) -> Combined | None:
        """What erases these concepts at once; None if the manifest asks for nothing of the kind."""
        if self.manifest.method == "reword":
            names = [plan.concept.name for plan in concepts]
            edit, units = reword_units(self.manifest, self.model, self.pairs, names)
            for unit in units:
                self.add(unit)
            return edit
        return self.fused(concepts) if self.manifest.outputs.fuse else None

    def fused(self, concepts: Sequence[ConceptPlan]) -> FusedMaskUnit:
        asked = (self.manifest.outputs.fuse or Fuse()).for_kinds(
            plan.concept.kind for plan in concepts
        )
        masks = tuple(plan.mask.key for plan in concepts)
        names = tuple(plan.concept.name for plan in concepts)
        if asked.how != "budget":
            return self.add(FusedMaskUnit(masks=masks, erased=names, fusion=asked))
        # Including those that this mask lacks: a concept that could not be erased is not spared
        # either.
        erased = {concept.name for concept in self.manifest.concepts}
        spared = [other for other in self.manifest.retain if other.name not in erased]
        return self.add(
            FusedMaskUnit(
                masks=masks,
                erased=names,
                fusion=asked,
                sides=tuple((plan.target.key, plan.base.key) for plan in concepts),
                retained=tuple(
                    (
                        self.side([pair.target for pair in self.pairs[other.name]]).key,
                        self.side([pair.base for pair in self.pairs[other.name]]).key,
                    )
                    for other in spared
                ),
                tau=self.manifest.pruning.tau,
            )
        )

    def checkpoints(self, mask: MaskUnit | Combined) -> tuple[CheckpointUnit, ...]:
        outputs = self.manifest.outputs
        # A rewording is a delta itself.
        deltas = outputs.deltas and not isinstance(mask, RewordUnit)
        forms = [("delta", deltas), ("pipeline", outputs.pipelines)]
        return tuple(
            self.add(
                CheckpointUnit(
                    key=unit_key({"kind": "checkpoint", "form": form, "mask": mask.key}),
                    mask=(mask.kind, mask.key),
                    erased=mask.erased,
                    form=form,  # type: ignore[arg-type]
                )
            )
            for form, wanted in forms
            if wanted
        )

    def combined_previews(
        self, combined: Combined, concepts: Sequence[ConceptPlan]
    ) -> tuple[PreviewUnit, ...]:
        """With all concepts erased: the images that are generated for the single concepts.

        They are not checked for a change: those of retained concepts should have none.
        """
        preview = self.manifest.outputs.preview
        if preview is None:
            return ()
        own = chain.from_iterable(plan.previews_before for plan in concepts)
        before = {unit.key: unit for unit in (*self.previews.shared, *own)}
        return tuple(
            preview_unit(self.model, combined, unit.prompts, preview) for unit in before.values()
        )
