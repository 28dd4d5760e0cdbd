"""From a manifest and its prompts to the units of work of a run, all known before it starts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

from conceptprune.collection.settings import CollectionSettings
from conceptprune.digest import digest_json, unit_key
from conceptprune.manifest import Concept, Fuse, Manifest, Preview, Pruning
from conceptprune.masks.fusion import Budget, Fusion, RetainShared, Union
from conceptprune.masks.neuron_table import FORMAT as NEURONS_FORMAT
from conceptprune.masks.selectors import selection_settings
from conceptprune.models.families import family_named
from conceptprune.models.prompt import Prompt
from conceptprune.models.source import ModelSettings
from conceptprune.prompts.fillers import GeneratorSettings, asks_generator
from conceptprune.prompts.pairs import PromptPair
from conceptprune.units.units import (
    AnyPromptsUnit,
    AnyUnit,
    CheckpointUnit,
    FusedMaskUnit,
    GeneratedPromptsUnit,
    MaskUnit,
    PreviewUnit,
    PromptsUnit,
    StatisticsUnit,
    SweepTableUnit,
    SweepUnit,
    Unit,
    WindowUnit,
    window_units,
)
from conceptprune.versions import versions

CONCEPTS_PER_PROMPTS_UNIT = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ConceptPlan:
    """The units that belong to one concept to be erased."""

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
class Plan:
    """Everything a run will do, by key; units that several concepts share stand here once."""

    run: str
    model: ModelSettings
    settings: CollectionSettings
    concepts: tuple[ConceptPlan, ...]
    windows: Mapping[str, WindowUnit]
    sides: Mapping[str, StatisticsUnit]
    fused: FusedMaskUnit | None
    fused_checkpoints: tuple[CheckpointUnit, ...]
    fused_preview: PreviewUnit | None
    sweep_table: SweepTableUnit | None = None
    prompts: tuple[AnyPromptsUnit, ...] = ()
    """The units that made the prompts which this plan follows from; a job puts them on record."""

    def units(self) -> Iterator[AnyUnit]:
        """Every unit once, each after all that it needs."""
        yield from self.prompts
        yield from self.windows.values()
        yield from self.sides.values()
        yield from (concept.mask for concept in self.concepts)
        yield from chain.from_iterable(concept.sweeps for concept in self.concepts)
        if self.sweep_table:
            yield self.sweep_table
        if self.fused:
            yield self.fused
        yield from chain.from_iterable(concept.checkpoints for concept in self.concepts)
        yield from self.fused_checkpoints
        yield from self.previews().values()

    def previews(self) -> dict[str, PreviewUnit]:
        """Image units by key: those of the untouched model first."""
        before = chain.from_iterable(concept.previews_before for concept in self.concepts)
        after = (concept.preview_after for concept in self.concepts if concept.preview_after)
        fused = (self.fused_preview,) if self.fused_preview else ()
        return {unit.key: unit for unit in chain(before, after, fused)}

    def evaluations(self, unit: Unit) -> int:
        """Denoiser evaluations of a unit: prompts x guidance halves x calls."""
        if isinstance(unit, WindowUnit):
            halves = family_named(self.model.pipeline).halves(self.settings.guidance)
            return len(unit.prompts) * halves * (unit.window.stop - unit.window.start)
        if isinstance(unit, PreviewUnit):
            halves = family_named(self.model.pipeline).halves(unit.guidance)
            return len(unit.prompts) * halves * unit.steps
        return 0

    def concepts_of(self) -> dict[str, tuple[str, ...]]:
        """Unit key -> names of the concepts that need it, in the manifest's order.

        What is made of all masks together is no concept's own, and is not among the keys.
        """
        by_key: dict[str, dict[str, None]] = {
            unit.key: dict.fromkeys(self._concepts_after(unit)) for unit in self.prompts
        }
        needs = {unit.key: unit.needs for unit in self.units()}
        for plan in self.concepts:
            pending = [plan.mask.key, *(unit.key for unit in plan.checkpoints)]
            pending += [unit.key for unit in plan.sweeps]
            pending += [unit.key for unit in plan.previews_before]
            if plan.preview_after:
                pending.append(plan.preview_after.key)
            seen: set[str] = set()
            while pending:
                key = pending.pop()
                if key not in seen:
                    seen.add(key)
                    by_key.setdefault(key, {})[plan.concept.name] = None
                    pending += [need for _, need in needs[key]]
        return {key: tuple(names) for key, names in by_key.items()}

    def _concepts_after(self, unit: AnyPromptsUnit) -> Iterator[str]:
        """Names of the concepts to erase that need a unit's prompts.

        Prompts of a concept that is only retained are needed by all that are compared with it.
        """
        made = {concept.name for concept in concepts_in(unit)}
        retains = bool(made - {plan.concept.name for plan in self.concepts})
        for plan in self.concepts:
            compared = bool(plan.mask.retained or plan.preview_after)
            if plan.concept.name in made or (retains and compared):
                yield plan.concept.name


def concepts_in(unit: AnyPromptsUnit) -> tuple[Concept, ...]:
    """The concepts whose prompts a unit makes."""
    return unit.concepts if isinstance(unit, PromptsUnit) else (unit.concept,)


def prompts_units(manifest: Manifest, language_model: str | None = None) -> list[AnyPromptsUnit]:
    """The units that make the prompts of all concepts, to erase and to retain.

    `language_model` is the digest of the one that the manifest has write fillers, if any.
    """
    seed = manifest.collection.seed
    concepts = (*manifest.concepts, *manifest.retain)
    generated: tuple[Concept, ...] = ()
    generator = manifest.prompts.generator
    units: list[AnyPromptsUnit] = []
    if generator is not None:
        if language_model is None:
            raise ValueError("the language model of prompts.generator has not been identified")
        settings = GeneratorSettings.of(generator, language_model)
        generated = tuple(concept for concept in concepts if asks_generator(concept))
        concepts = tuple(concept for concept in concepts if not asks_generator(concept))
        # A concept that is erased and retained is asked for once.
        by_key = {
            unit.key: unit
            for unit in (
                GeneratedPromptsUnit(concept=concept, seed=seed, generator=settings)
                for concept in generated
            )
        }
        units += by_key.values()
    size = CONCEPTS_PER_PROMPTS_UNIT
    units += [
        PromptsUnit(concepts=concepts[first : first + size], seed=seed)
        for first in range(0, len(concepts), size)
    ]
    return units


def run_id(manifest: Manifest, model: ModelSettings) -> str:
    """Identity of a run: what the manifest asks for and of which model, not how it is computed."""
    without: dict[str, Any] = {"compute": True, "model": True}
    if manifest.sweep is None:
        without["sweep"] = True
    asked_of: dict[str, Any] = {}
    if manifest.prompts.generator is None:
        without["prompts"] = True
    else:
        without["prompts"] = {"generator": {"model"}}
        asked_of["language_model"] = model.language_model
    asked = manifest.model_dump(mode="json", exclude=without)
    return digest_json({"manifest": asked, **model.key_parts, **asked_of})[:16]


def collection_settings(manifest: Manifest) -> CollectionSettings:
    """The collection's settings as the library takes them."""
    collection = manifest.collection
    return CollectionSettings(
        steps=collection.steps,
        tau=collection.tau,
        guidance=collection.guidance,
        halves=collection.guidance_halves,
        batch_size=collection.batch_size,
        site=manifest.pruning.site,
    )


def fusion_of(asked: Fuse) -> Fusion:
    """The fusion a manifest asks for."""
    match asked.how:
        case "union":
            return Union()
        case "retain-shared":
            return RetainShared() if asked.alpha is None else RetainShared(alpha=asked.alpha)
        case "budget":
            return Budget() if asked.fraction is None else Budget(fraction=asked.fraction)


def build_plan(
    manifest: Manifest,
    model: ModelSettings,
    pairs: Mapping[str, tuple[PromptPair, ...]],
) -> Plan:
    """The plan of a run; `pairs` are the prompt pairs by concept name, retained ones too."""
    settings = collection_settings(manifest)
    planner = _Planner(manifest, model, settings, pairs)
    concepts = tuple(planner.concept(concept) for concept in manifest.concepts)
    fused = planner.fused(concepts) if manifest.outputs.fuse else None
    return Plan(
        run=run_id(manifest, model),
        model=model,
        settings=settings,
        concepts=concepts,
        windows=planner.windows,
        sides=planner.sides,
        fused=fused,
        fused_checkpoints=planner.checkpoints(fused.key) if fused else (),
        fused_preview=planner.fused_preview(fused, concepts) if fused else None,
        sweep_table=_sweep_table(concepts) if manifest.sweep else None,
    )


def _sweep_table(concepts: Sequence[ConceptPlan]) -> SweepTableUnit:
    return SweepTableUnit(sweeps=tuple(unit.key for plan in concepts for unit in plan.sweeps))


class _Planner:
    """Gathers the units of one plan; equal units fall together by their keys."""

    def __init__(
        self,
        manifest: Manifest,
        model: ModelSettings,
        settings: CollectionSettings,
        pairs: Mapping[str, tuple[PromptPair, ...]],
    ) -> None:
        self.manifest = manifest
        self.model = model
        self.settings = settings
        self.pairs = pairs
        self.windows: dict[str, WindowUnit] = {}
        self.sides: dict[str, StatisticsUnit] = {}

    def side(self, prompts: Sequence[Prompt]) -> StatisticsUnit:
        side, units = window_units(
            self.model,
            tuple(prompts),
            self.settings,
            shard_prompts=self.manifest.collection.shard_prompts,
            window=self.manifest.collection.window,
        )
        self.windows |= {unit.key: unit for unit in units}
        self.sides[side.key] = side
        return side

    def concept(self, concept: Concept) -> ConceptPlan:
        pairs = self.pairs[concept.name]
        target = self.side([pair.target for pair in pairs])
        base = self.side([pair.base for pair in pairs])
        mask = self.mask(concept, target, base)
        preview = self.manifest.outputs.preview
        before: tuple[PreviewUnit, ...] = ()
        after = None
        if preview:
            before, after = self.previews(concept, mask, preview)
        return ConceptPlan(
            concept=concept,
            pairs=pairs,
            target=target,
            base=base,
            mask=mask,
            checkpoints=self.checkpoints(mask.key),
            previews_before=before,
            preview_after=after,
            sweeps=self.sweeps(mask),
        )

    def sweeps(self, mask: MaskUnit) -> tuple[SweepUnit, ...]:
        """A unit for each selector and what one pass over the calls can compare."""
        if self.manifest.sweep is None:
            return ()
        passes: dict[tuple[Any, ...], list[Pruning]] = {}
        for pruning in self.manifest.sweep.settings(self.manifest.pruning):
            shared = (pruning.selector, pruning.sparsity, pruning.r1, pruning.r2)
            passes.setdefault(shared, []).append(pruning)
        return tuple(
            SweepUnit(
                mask=mask,
                selector=group[0].selector,
                settings=tuple(selection_settings(pruning) for pruning in group),
            )
            for group in passes.values()
        )

    def retained(self, concept: Concept) -> list[Concept]:
        """The concepts to retain while `concept` is erased (which may be in the list itself)."""
        return [other for other in self.manifest.retain if other.name != concept.name]

    def mask(self, concept: Concept, target: StatisticsUnit, base: StatisticsUnit) -> MaskUnit:
        pruning = self.manifest.pruning
        retained: tuple[StatisticsUnit, ...] = ()
        if pruning.base != "plain":
            retained = tuple(
                self.side([pair.target for pair in self.pairs[other.name]])
                for other in self.retained(concept)
            )
        selection = selection_settings(pruning)
        provenance = {
            "model": self.model.source.label,
            "revision": self.model.source.revision,
            "model_digest": self.model.identity,
            "dtype": self.model.dtype,
            "scheduler": self.model.scheduler,
            "kind": concept.kind,
            "collection": asdict(self.settings),
            "seed": self.manifest.collection.seed,
            "selector": pruning.selector,
            "selection": asdict(selection),
            "base": pruning.base,
            "prompts_digest": {"target": target.prompts_digest, "base": base.prompts_digest},
            "versions": versions(),
        }
        keys = {
            "target": target.key,
            "base": base.key,
            "retained": [side.key for side in retained],
        }
        # Everything the mask file says is part of its identity, versions included: equal keys
        # must mean equal bytes.
        key = unit_key(
            {
                "kind": "mask",
                "concept": concept.name,
                **keys,
                "provenance": provenance,
                "table": NEURONS_FORMAT,
            }
        )
        return MaskUnit(
            key=key,
            concept=concept.name,
            target=target.key,
            base=base.key,
            retained=tuple(side.key for side in retained),
            rule=pruning.base,
            selector=pruning.selector,
            selection=selection,
            site=pruning.site,
            provenance=provenance,
        )

    def fused(self, concepts: Sequence[ConceptPlan]) -> FusedMaskUnit:
        asked = self.manifest.outputs.fuse or Fuse()
        masks = tuple(plan.mask.key for plan in concepts)
        fusion = fusion_of(asked)
        if not isinstance(fusion, Budget):
            return FusedMaskUnit(masks=masks, fusion=fusion)
        erased = {plan.concept.name for plan in concepts}
        spared = [other for other in self.manifest.retain if other.name not in erased]
        return FusedMaskUnit(
            masks=masks,
            fusion=fusion,
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

    def checkpoints(self, mask: str) -> tuple[CheckpointUnit, ...]:
        outputs = self.manifest.outputs
        forms = [("delta", outputs.deltas), ("pipeline", outputs.pipelines)]
        return tuple(
            CheckpointUnit(
                key=unit_key({"kind": "checkpoint", "form": form, "mask": mask}),
                mask=mask,
                form=form,  # type: ignore[arg-type]
            )
            for form, wanted in forms
            if wanted
        )

    def previews(
        self, concept: Concept, mask: MaskUnit, preview: Preview
    ) -> tuple[tuple[PreviewUnit, ...], PreviewUnit]:
        pairs = self.pairs[concept.name][: preview.prompts_per_concept]
        groups = [_drawn([pair.target for pair in pairs], preview)]
        groups.append(_drawn([pair.base for pair in pairs], preview))
        for other in self.retained(concept):
            targets = [pair.target for pair in self.pairs[other.name]]
            # A start of its own for each retained concept spreads them over the fillers.
            start = int(digest_json(other.name), 16) % len(targets)
            chosen = (targets[start:] + targets[:start])[: preview.retained_prompts]
            groups.append(_drawn(chosen, preview))
        before = tuple(self.preview(None, group, preview) for group in groups)
        every_prompt = tuple(dict.fromkeys(chain.from_iterable(groups)))
        return before, self.preview(mask.key, every_prompt, preview, before)

    def fused_preview(
        self, fused: FusedMaskUnit, concepts: Sequence[ConceptPlan]
    ) -> PreviewUnit | None:
        """With the fused mask: all that was drawn for the single concepts."""
        preview = self.manifest.outputs.preview
        if preview is None:
            return None
        before = {unit.key: unit for plan in concepts for unit in plan.previews_before}
        drawn = (unit.prompts for unit in before.values())
        prompts = tuple(dict.fromkeys(chain.from_iterable(drawn)))
        return self.preview(fused.key, prompts, preview, tuple(before.values()))

    def preview(
        self,
        mask: str | None,
        prompts: tuple[Prompt, ...],
        preview: Preview,
        before: tuple[PreviewUnit, ...] = (),
    ) -> PreviewUnit:
        settings = {
            "steps": preview.steps,
            "guidance": preview.guidance,
            "batch_size": preview.batch_size,
            "judge": preview.judge,
        }
        texts = [[prompt.text, prompt.seed] for prompt in prompts]
        key = unit_key(
            {
                "kind": "preview",
                **self.model.key_parts,
                "mask": mask,
                "prompts": texts,
                **settings,
            }
        )
        return PreviewUnit(
            key=key,
            mask=mask,
            prompts=prompts,
            steps=preview.steps,
            guidance=preview.guidance,
            batch_size=preview.batch_size,
            judge=preview.judge,
            before=tuple(unit.key for unit in before),
        )


def _drawn(prompts: Sequence[Prompt], preview: Preview) -> tuple[Prompt, ...]:
    """Each prompt with each of the preview's seeds, which are not the collection's."""
    texts = dict.fromkeys(prompt.text for prompt in prompts)
    return tuple(Prompt(text=text, seed=seed) for seed in preview.seeds for text in texts)
