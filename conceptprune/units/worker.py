"""What an erase job's worker does for each kind of unit: read what it needs, compute, write."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from conceptprune.checkpoints.delta import Delta, applied, delta_changes
from conceptprune.checkpoints.files import changed_pipeline, delta_file, pipeline_files
from conceptprune.collection.collect import collect_window
from conceptprune.collection.statistics import Statistics, join_calls, merge_shards
from conceptprune.manifest.model_settings import ModelSettings
from conceptprune.masks.mask import PruningMask
from conceptprune.masks.neuron_table import neurons_table
from conceptprune.masks.selectors import (
    Evidence,
    NamedSelector,
    on_site,
    select_mask,
    stronger_neurons,
)
from conceptprune.masks.sweep import sorted_rows, sweep_rows
from conceptprune.models.base import DiffusionModel
from conceptprune.models.families import check_identity, denoiser_of, family_named, identity
from conceptprune.models.generate import Images, generate
from conceptprune.models.weights import read_layers
from conceptprune.prompts.fillers import answers_table, write_fillers
from conceptprune.prompts.language_model import LanguageModel
from conceptprune.prompts.pairs import prompt_pairs
from conceptprune.prompts.table import prompts_table
from conceptprune.store import (
    ObjectRef,
    Store,
    load_table,
    table_to_parquet,
    unit_table,
)
from conceptprune.store.claims import Claims
from conceptprune.units.batch_memory import BatchMemory
from conceptprune.units.commit import Made, UnitWorker
from conceptprune.units.preview import hardly_changed, no_effect, preview_table
from conceptprune.units.results import fused, read_mask, read_state, read_statistics
from conceptprune.units.reword_units import MomentsUnit, RewordUnit, ShiftUnit, VocabularyUnit
from conceptprune.units.rewording import read_rewording, reworded, sums_file
from conceptprune.units.sweep_units import SweepTableUnit, SweepUnit
from conceptprune.units.unit import Need, Unit
from conceptprune.units.units import (
    CheckpointUnit,
    FusedMaskUnit,
    GeneratedPromptsUnit,
    MaskUnit,
    PreviewUnit,
    PromptsUnit,
    StatisticsUnit,
    WindowUnit,
)


class Worker(UnitWorker):
    """Does the units of erase jobs; loads the model once, when first needed."""

    def __init__(
        self,
        store: Store,
        model: ModelSettings,
        claims: Claims | None = None,
    ) -> None:
        super().__init__(store, claims)
        self.model = model
        self._memories: dict[tuple[str, int], BatchMemory] = {}
        self._language_models: dict[tuple[str, str], LanguageModel] = {}

    @cached_property
    def folder(self) -> Path:
        """The model's folder on this machine.

        Raises:
            ModelMismatchError: its files differ from those that the units' keys were made for.
        """
        folder = self.model.folder()
        check_identity(folder, identity(folder), self.model.identity)
        return folder

    @cached_property
    def denoiser(self) -> DiffusionModel:
        """The model, loaded on this worker's device."""
        return family_named(self.model.pipeline).load(
            self.folder,
            dtype=self.dtype,
            device=self.device,
            scheduler=self.model.scheduler,
            resolution=self.model.resolution,
            offload=self.model.offload,
        )

    def language_model(self, unit: GeneratedPromptsUnit) -> LanguageModel:
        """The language model that writes fillers, loaded once."""
        settings = unit.generator
        key = (unit.language_model, settings.dtype)
        if key not in self._language_models:
            self._language_models[key] = LanguageModel.load(
                settings.local_folder(),
                dtype=getattr(torch, settings.dtype),
                device=self.device,
            )
        return self._language_models[key]

    @property
    def device(self) -> str:
        """This worker's device."""
        if self.model.device == "auto":
            return "cuda" if torch.cuda.is_available() else "cpu"
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """The denoiser's floating-point type."""
        dtype: torch.dtype = getattr(torch, self.model.dtype)
        return dtype

    def make(self, unit: Unit) -> Made:
        """Compute a unit of an erase job and write its objects.

        Raises:
            UserError, NumericalError, StoreError: see what each kind calls.
        """
        match unit:
            case PromptsUnit():
                return self._prompts(unit)
            case GeneratedPromptsUnit():
                return self._generated_prompts(unit)
            case WindowUnit():
                return self._window(unit)
            case StatisticsUnit():
                return self._reduced(unit)
            case MaskUnit():
                return self._mask(unit)
            case SweepUnit():
                return self._sweep(unit)
            case SweepTableUnit():
                return self._sweep_table(unit)
            case FusedMaskUnit():
                return self._fuse(unit)
            case ShiftUnit() | MomentsUnit() | VocabularyUnit():
                return self._made_moments(sums_file(self.denoiser, unit))
            case RewordUnit():
                return self._reword(unit)
            case CheckpointUnit():
                return self._checkpoint(unit)
            case PreviewUnit():
                return self._preview(unit)
            case _:
                raise TypeError(f"an erase job's worker does not make units of kind {unit.kind}")

    def _memory(self, kind: str, batch_size: int) -> BatchMemory:
        """How much of a batch fits; shared by units of the same kind and batch size."""
        return self._memories.setdefault((kind, batch_size), BatchMemory(batch_size))

    def _put(self, role: str, data: bytes, *, suffix: str) -> ObjectRef:
        return self.store.put(data, kind=role, model=self.model.identity, suffix=suffix)

    def _prompts(self, unit: PromptsUnit) -> Made:
        pairs = {concept.name: prompt_pairs(concept, seed=unit.seed) for concept in unit.concepts}
        kinds = {concept.name: concept.kind for concept in unit.concepts}
        return Made(
            objects={"prompts": self._put_table(unit, "prompts", prompts_table(pairs, kinds))}
        )

    def _generated_prompts(self, unit: GeneratedPromptsUnit) -> Made:
        settings = unit.generator
        model = self.language_model(unit)
        written = write_fillers(
            unit.concept, settings, lambda question, seed: model.answer(question, seed, settings)
        )
        concept = unit.concept.model_copy(update={"fillers": written.fillers})
        pairs = {concept.name: prompt_pairs(concept, seed=unit.seed)}
        answers = answers_table(unit.concept, settings, unit.language_model, written)
        return Made(
            objects={
                "prompts": self._put_table(
                    unit, "prompts", prompts_table(pairs, {concept.name: concept.kind})
                ),
                "answers": self._put_table(unit, "answers", answers),
            },
            facts={
                "language_model": settings.model.label,
                "language_model_revision": settings.model.hub_revision,
                "language_model_digest": unit.language_model,
                "question": written.question,
                "asks": 1 + max(line.ask for line in written.lines),
                "rejected": sum(line.rejected is not None for line in written.lines),
            },
        )

    def _window(self, unit: WindowUnit) -> Made:
        states = None
        if unit.previous is not None:
            commit = self.store.get(WindowUnit.kind, unit.previous)
            count = -(-len(unit.prompts) // unit.collection.batch_size)
            states = [read_state(self.store, commit, f"state.{index}") for index in range(count)]

        memory = self._memory(unit.kind, unit.collection.batch_size)
        for attempt in memory.attempts():
            with attempt as at_once:
                result = collect_window(
                    self.denoiser,
                    unit.prompts,
                    unit.collection,
                    unit.window,
                    states,
                    site=unit.site,
                    keep_states=not unit.last,
                    at_once=at_once,
                )
        table = result.statistics.to_arrow()
        objects = {"partial": self._put_table(unit, "partial", table)}
        for index, state in enumerate(result.states):
            data = replace(state, unit=unit.key).to_bytes()
            objects[f"state.{index}"] = self._put("state", data, suffix="safetensors")
        return Made(objects=objects, facts={"at_once": memory.at_once})

    def _reduced(self, unit: StatisticsUnit) -> Made:
        shards = [
            join_calls([self._statistics(WindowUnit.kind, key, "partial") for key in windows])
            for windows in unit.grid
        ]
        table = merge_shards(shards).to_arrow(
            {"side": unit.key, "model_digest": self.model.identity, "prompts": unit.prompts_digest}
        )
        data = table_to_parquet(table)
        return Made(objects={"statistics": self._put("statistics", data, suffix="parquet")})

    def _statistics(self, kind: str, key: str, role: str) -> Statistics:
        return read_statistics(self.store, kind, key, role)

    def _mask(self, unit: MaskUnit) -> Made:
        evidence = self._evidence(unit)
        component = denoiser_of(self.folder)
        layers = evidence.target.layers
        mask = select_mask(
            # As stored in the files: the mask fits this model in whatever dtype it is loaded.
            read_layers(self.folder, layers, component),
            evidence,
            NamedSelector(settings=unit.pruning),
            dtype=self.dtype,
            concept=unit.concept,
            component=component,
            provenance={**unit.provenance, "site": unit.pruning.site},
        )
        selector, tau = unit.pruning.selector, unit.pruning.tau
        stronger = {name: stronger_neurons(selector, name, evidence)[:tau] for name in layers}
        table = neurons_table(mask, unit.key, stronger)
        made = self._made_mask(mask)
        neurons = self._put("neurons", table_to_parquet(table), suffix="parquet")
        return Made(objects={**made.objects, "neurons": neurons}, facts=made.facts)

    def _evidence(self, unit: MaskUnit) -> Evidence:
        return Evidence(
            target=self._statistics(StatisticsUnit.kind, unit.target, "statistics"),
            base=self._statistics(StatisticsUnit.kind, unit.base, "statistics"),
            retained=[
                self._statistics(StatisticsUnit.kind, key, "statistics") for key in unit.retained
            ],
            rule=unit.pruning.base,
        )

    def _sweep(self, unit: SweepUnit) -> Made:
        evidence = self._evidence(unit.mask)
        layers = evidence.target.layers
        folder = self.folder
        weights = read_layers(folder, layers, denoiser_of(folder), self.dtype)
        site_weights = on_site(weights, evidence.target)
        reference = read_mask(self.store, unit.mask.key, of=unit.mask.erased).on_site()
        table = sweep_rows(site_weights, evidence, unit.settings, reference)
        return Made(objects={"sweep": self._put_table(unit, "sweep", table)})

    def _sweep_table(self, unit: SweepTableUnit) -> Made:
        parts = [
            load_table(self.store, self.store.get(SweepUnit.kind, key), "sweep")
            for key in unit.sweeps
        ]
        return Made(
            objects={"sweep": self._put_table(unit, "sweep", sorted_rows(pa.concat_tables(parts)))}
        )

    def _put_table(self, unit: Unit, role: str, table: pa.Table) -> ObjectRef:
        return self._put(role, unit_table(table, unit.key), suffix="parquet")

    def _fuse(self, unit: FusedMaskUnit) -> Made:
        return self._made_mask(fused(self.store, unit, self.folder, self.dtype))

    def _made_mask(self, mask: PruningMask) -> Made:
        return Made(
            objects={"mask": self._put("mask", mask.to_bytes(), suffix="safetensors")},
            facts={"entries": mask.num_entries, "site_weights": mask.num_weights},
        )

    def _made_moments(self, data: bytes) -> Made:
        return Made(objects={"moments": self._put("moments", data, suffix="safetensors")})

    def _reword(self, unit: RewordUnit) -> Made:
        data, facts = reworded(self.store, unit, self.denoiser, self.folder)
        delta = self._put("delta", data, suffix="safetensors")
        return Made(objects={"delta": delta}, facts=facts)

    def _edit(self, need: Need, erased: Sequence[str]) -> PruningMask | Delta:
        """The mask or the rewording that a unit needs, which must be of the concepts `erased`."""
        kind, key = need
        if kind == RewordUnit.kind:
            return read_rewording(self.store, key, self.folder, of=erased)
        return read_mask(self.store, key, of=erased)

    def _checkpoint(self, unit: CheckpointUnit) -> Made:
        mask = self._edit(unit.mask, unit.erased)
        folder = self.folder
        if isinstance(mask, Delta):
            return self._pipeline(changed_pipeline(delta_changes(mask), folder))
        if unit.form == "delta":
            return Made(
                objects={
                    "delta" if component == mask.components[0] else f"delta.{component}": self._put(
                        "delta", delta_file(mask, folder, component), suffix="safetensors"
                    )
                    for component in mask.components
                }
            )
        return self._pipeline(pipeline_files(mask, folder))

    def _pipeline(self, files: Iterable[tuple[str, bytes]]) -> Made:
        return Made(
            objects={
                path: self._put("pipeline", data, suffix=path.rsplit(".", 1)[-1])
                for path, data in files
            }
        )

    def _preview(self, unit: PreviewUnit) -> Made:
        mask = None if unit.mask is None else self._edit(unit.mask, unit.erased)
        memory = self._memory(unit.kind, unit.batch_size)
        images = self._generated(unit, mask, memory)
        table = preview_table(unit.prompts, images)
        # An image's last bits depend on its batch size, and the base model's images may come from
        # other batches, so generate the same batch without the mask to compare.
        if (
            unit.before
            and hardly_changed(self._previews(unit.before), table)
            and np.array_equal(images, self._generated(unit, None, memory))
        ):
            raise no_effect(table.num_rows)
        objects = {"preview": self._put_table(unit, "preview", table)}
        return Made(objects=objects, facts={"at_once": memory.at_once})

    def _generated(
        self, unit: PreviewUnit, mask: PruningMask | Delta | None, memory: BatchMemory
    ) -> Images:
        with self._masked(mask):
            for attempt in memory.attempts():
                with attempt as at_once:
                    images = generate(
                        self.denoiser,
                        unit.prompts,
                        steps=unit.steps,
                        guidance=unit.guidance,
                        batch_size=unit.batch_size,
                        at_once=at_once,
                    )
        return images

    @contextmanager
    def _masked(self, mask: PruningMask | Delta | None) -> Iterator[None]:
        """The model with a mask or a rewording applied inside the context."""
        model = self.denoiser
        if mask is None or isinstance(mask, Delta):
            with applied(model, mask):
                yield
            return
        edits_encoders = mask.components != (mask.component,)
        with model.text_encoders_kept() if edits_encoders else nullcontext():
            mask.apply(model.pipe)
            if edits_encoders:
                model.forget_encodings()
            try:
                yield
            finally:
                mask.remove(model.pipe)
                if edits_encoders:
                    model.forget_encodings()

    def _previews(self, keys: Iterable[str]) -> Iterator[pa.Table]:
        for key in keys:
            commit = self.store.get(PreviewUnit.kind, key)
            yield load_table(self.store, commit, "preview")
