"""From a manifest and its prompts to the units of work of a run, all known before it starts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain

from conceptprune.digest import digest_json, unit_key
from conceptprune.manifest import Concept, Manifest, Preview
from conceptprune.neurons import FORMAT as NEURONS_FORMAT
from conceptprune.prompts import Prompt, PromptPair
from conceptprune.settings import CollectionSettings, SelectionSettings
from conceptprune.versions import versions
from conceptprune.work import (
    CheckpointWork,
    FuseWork,
    MaskWork,
    ModelSettings,
    PreviewWork,
    PromptsWork,
    SideWork,
    WindowWork,
    Work,
    window_units,
)

CONCEPTS_PER_PROMPTS_UNIT = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ConceptPlan:
    """The units that belong to one concept to be erased."""

    concept: Concept
    target: SideWork
    base: SideWork
    mask: MaskWork
    checkpoints: tuple[CheckpointWork, ...]
    previews_before: tuple[PreviewWork, ...]
    preview_after: PreviewWork | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything a run will do, by key; units that several concepts share stand here once."""

    run: str
    model: ModelSettings
    settings: CollectionSettings
    concepts: tuple[ConceptPlan, ...]
    windows: Mapping[str, WindowWork]
    sides: Mapping[str, SideWork]
    fused: FuseWork | None
    fused_checkpoints: tuple[CheckpointWork, ...]
    fused_preview: PreviewWork | None

    def units(self) -> Iterator[Work]:
        """Every unit once, each after all that it needs."""
        yield from self.windows.values()
        yield from self.sides.values()
        yield from (concept.mask for concept in self.concepts)
        if self.fused:
            yield self.fused
        yield from chain.from_iterable(concept.checkpoints for concept in self.concepts)
        yield from self.fused_checkpoints
        yield from self.previews().values()

    def previews(self) -> dict[str, PreviewWork]:
        """Image units by key: those of the untouched model first."""
        before = chain.from_iterable(concept.previews_before for concept in self.concepts)
        after = (concept.preview_after for concept in self.concepts if concept.preview_after)
        fused = (self.fused_preview,) if self.fused_preview else ()
        return {unit.key: unit for unit in chain(before, after, fused)}

    def evaluations(self, unit: Work) -> int:
        """Denoiser evaluations of a unit: prompts x guidance halves x calls."""
        if isinstance(unit, WindowWork):
            halves = 2 if self.settings.guidance > 1 else 1
            return len(unit.prompts) * halves * (unit.window.stop - unit.window.start)
        if isinstance(unit, PreviewWork):
            return len(unit.prompts) * (2 if unit.guidance > 1 else 1) * unit.steps
        return 0

    def concepts_of(self) -> dict[str, tuple[str, ...]]:
        """Unit key -> names of the concepts that need it, in the manifest's order.

        What is made of all masks together is no concept's own, and is not among the keys.
        """
        by_key: dict[str, dict[str, None]] = {}
        needs = {unit.key: unit.needs for unit in self.units()}
        for plan in self.concepts:
            pending = [plan.mask.key, *(unit.key for unit in plan.checkpoints)]
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


def prompts_units(manifest: Manifest) -> list[PromptsWork]:
    """The units that make the prompts of all concepts, to erase and to retain."""
    concepts = (*manifest.concepts, *manifest.retain)
    size = CONCEPTS_PER_PROMPTS_UNIT
    return [
        PromptsWork(concepts=concepts[first : first + size], seed=manifest.collection.seed)
        for first in range(0, len(concepts), size)
    ]


def run_id(manifest: Manifest, model: ModelSettings) -> str:
    """Identity of a run: what the manifest asks for and of which model, not how it is computed."""
    asked = manifest.model_dump(mode="json", exclude={"compute", "model"})
    return digest_json({"manifest": asked, **model.key_parts})[:16]


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


def build_plan(
    manifest: Manifest,
    model: ModelSettings,
    pairs: Mapping[str, tuple[PromptPair, ...]],
) -> Plan:
    """The plan of a run; `pairs` are the prompt pairs by concept name, retained ones too."""
    settings = collection_settings(manifest)
    planner = _Planner(manifest, model, settings, pairs)
    concepts = tuple(planner.concept(concept) for concept in manifest.concepts)
    fused = None
    if manifest.outputs.fuse:
        masks = tuple(plan.mask.key for plan in concepts)
        key = unit_key({"kind": "fuse", "how": manifest.outputs.fuse, "masks": list(masks)})
        fused = FuseWork(key=key, masks=masks)
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
    )


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
        self.windows: dict[str, WindowWork] = {}
        self.sides: dict[str, SideWork] = {}

    def side(self, prompts: Sequence[Prompt]) -> SideWork:
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
        before: tuple[PreviewWork, ...] = ()
        after = None
        if preview:
            before, after = self.previews(concept, mask, preview)
        return ConceptPlan(
            concept=concept,
            target=target,
            base=base,
            mask=mask,
            checkpoints=self.checkpoints(mask.key),
            previews_before=before,
            preview_after=after,
        )

    def retained(self, concept: Concept) -> list[Concept]:
        """The concepts to retain while `concept` is erased (which may be in the list itself)."""
        return [other for other in self.manifest.retain if other.name != concept.name]

    def mask(self, concept: Concept, target: SideWork, base: SideWork) -> MaskWork:
        pruning = self.manifest.pruning
        retained: tuple[SideWork, ...] = ()
        if pruning.base != "plain":
            retained = tuple(
                self.side([pair.target for pair in self.pairs[other.name]])
                for other in self.retained(concept)
            )
        selection = SelectionSettings(
            sparsity=pruning.sparsity,
            tau=pruning.tau,
            threshold=pruning.threshold,
            min_per_row=pruning.min_per_row,
        )
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
        return MaskWork(
            key=key,
            concept=concept.name,
            target=target.key,
            base=base.key,
            retained=tuple(side.key for side in retained),
            rule=pruning.base,
            selection=selection,
            site=pruning.site,
            provenance=provenance,
        )

    def checkpoints(self, mask: str) -> tuple[CheckpointWork, ...]:
        outputs = self.manifest.outputs
        forms = [("delta", outputs.deltas), ("pipeline", outputs.pipelines)]
        return tuple(
            CheckpointWork(
                key=unit_key({"kind": "checkpoint", "form": form, "mask": mask}),
                mask=mask,
                form=form,  # type: ignore[arg-type]
            )
            for form, wanted in forms
            if wanted
        )

    def previews(
        self, concept: Concept, mask: MaskWork, preview: Preview
    ) -> tuple[tuple[PreviewWork, ...], PreviewWork]:
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
        return before, self.preview(mask.key, every_prompt, preview)

    def fused_preview(self, fused: FuseWork, concepts: Sequence[ConceptPlan]) -> PreviewWork | None:
        """With the fused mask: all that was drawn for the single concepts."""
        preview = self.manifest.outputs.preview
        if preview is None:
            return None
        drawn = (unit.prompts for plan in concepts for unit in plan.previews_before)
        prompts = tuple(dict.fromkeys(chain.from_iterable(drawn)))
        return self.preview(fused.key, prompts, preview)

    def preview(
        self, mask: str | None, prompts: tuple[Prompt, ...], preview: Preview
    ) -> PreviewWork:
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
        return PreviewWork(
            key=key,
            mask=mask,
            prompts=prompts,
            steps=preview.steps,
            guidance=preview.guidance,
            batch_size=preview.batch_size,
            judge=preview.judge,
        )


def _drawn(prompts: Sequence[Prompt], preview: Preview) -> tuple[Prompt, ...]:
    """Each prompt with each of the preview's seeds, which are not the collection's."""
    texts = dict.fromkeys(prompt.text for prompt in prompts)
    return tuple(Prompt(text=text, seed=seed) for seed in preview.seeds for text in texts)
