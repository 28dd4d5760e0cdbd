"""What a worker does with each kind of unit: read what it needs, compute, write, commit."""

import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from conceptprune.checkpoints import delta_file, pipeline_files
from conceptprune.collect import CollectionSettings, WindowResult, collect_window
from conceptprune.families.stable_diffusion import COMPONENT, StableDiffusion
from conceptprune.mask import LayerMask, PruningMask, union_masks
from conceptprune.memory import BatchMemory
from conceptprune.neurons import neurons_table
from conceptprune.outcome import Done, Held, run_claimed, worker_name
from conceptprune.preview import draw, preview_table
from conceptprune.prompt_table import prompts_table
from conceptprune.prompts import prompt_pairs
from conceptprune.select import base_energy, select_entries
from conceptprune.statistics import Statistics, join_calls, merge_shards
from conceptprune.store import Commit, ObjectRef, Store, parquet_to_table, table_to_parquet
from conceptprune.store.claims import Claims
from conceptprune.trajectory import TrajectoryState
from conceptprune.versions import versions
from conceptprune.weights import read_weights, weight_digest
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
)

if TYPE_CHECKING:
    from conceptprune.studio.judge import Judge


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What a stage wrote, and numbers worth showing without reading it."""

    objects: Mapping[str, ObjectRef]
    facts: Mapping[str, Any] = field(default_factory=dict)


class Worker:
    """Runs units against one store; loads the model when first needed, and once."""

    def __init__(self, store: Store, model: ModelSettings, settings: CollectionSettings) -> None:
        self.store = store
        self.model = model
        self.settings = settings
        self._memory = BatchMemory(settings.batch_size)
        self._preview_memory: dict[int, BatchMemory] = {}

    @cached_property
    def denoiser(self) -> StableDiffusion:
        """The model, loaded on this worker's device."""
        device = self.model.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        return StableDiffusion.load(
            self.model.source.folder(),
            dtype=self.dtype,
            device=device,
            scheduler=self.model.scheduler,
            with_decoder=True,
        )

    @cached_property
    def judge(self) -> "Judge":
        """The studio's judge."""
        from conceptprune.studio.judge import Judge

        return Judge.load()

    @property
    def dtype(self) -> torch.dtype:
        """The denoiser's floating-point type."""
        dtype: torch.dtype = getattr(torch, self.model.dtype)
        return dtype

    def run(self, work: Work) -> Commit:
        """Do one unit and commit it; work that is committed already is not done again.

        Raises:
            UserError, NumericalError, StoreError: see the stages.
        """
        return self.store.find(work.kind, work.key) or self._do(work)

    def run_claimed(self, work: Work, claims: Claims) -> Done | Held:
        """Do one unit unless another job is at it; see `run`."""
        return run_claimed(work, claims, self._do)

    def _do(self, work: Work) -> Commit:
        started = time.perf_counter()
        made = self._make(work)
        commit = Commit(
            kind=work.kind,
            key=work.key,
            objects=made.objects,
            provenance={
                **made.facts,
                "seconds": round(time.perf_counter() - started, 3),
                "finished": round(time.time(), 3),
                "worker": worker_name(),
                "threads": torch.get_num_threads(),
                "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                "versions": versions(),
            },
        )
        self.store.commit(commit)
        return commit

    def _make(self, work: Work) -> Made:
        match work:
            case PromptsWork():
                return self._prompts(work)
            case WindowWork():
                return self._window(work)
            case SideWork():
                return self._side(work)
            case MaskWork():
                return self._mask(work)
            case FuseWork():
                return self._fuse(work)
            case CheckpointWork():
                return self._checkpoint(work)
            case PreviewWork():
                return self._preview(work)

    def _put(self, role: str, data: bytes, *, suffix: str) -> ObjectRef:
        return self.store.put(data, kind=role, model=self.model.identity, suffix=suffix)

    def _prompts(self, work: PromptsWork) -> Made:
        pairs = {concept.name: prompt_pairs(concept, seed=work.seed) for concept in work.concepts}
        kinds = {concept.name: concept.kind for concept in work.concepts}
        data = table_to_parquet(prompts_table(pairs, kinds))
        return Made(objects={"prompts": self._put("prompts", data, suffix="parquet")})

    def _window(self, work: WindowWork) -> Made:
        states = None
        if work.previous is not None:
            commit = self.store.get("window", work.previous)
            count = sum(role.startswith("state.") for role in commit.objects)
            states = [
                TrajectoryState.from_bytes(self.store.load(commit, f"state.{index}"))
                for index in range(count)
            ]

        def collect(at_once: int) -> WindowResult:
            return collect_window(
                self.denoiser,
                work.prompts,
                self.settings,
                work.window,
                states,
                keep_states=not work.last,
                at_once=at_once,
            )

        result = self._memory.run(collect)
        table = result.statistics.to_arrow()
        objects = {"partial": self._put("partial", table_to_parquet(table), suffix="parquet")}
        for index, state in enumerate(result.states):
            data = state.to_bytes()
            objects[f"state.{index}"] = self._put("state", data, suffix="safetensors")
        return Made(objects=objects, facts={"at_once": self._memory.at_once})

    def _side(self, work: SideWork) -> Made:
        shards = [
            join_calls([self._statistics("window", key, "partial") for key in windows])
            for windows in work.grid
        ]
        table = merge_shards(shards).to_arrow(
            {"side": work.key, "model_digest": self.model.identity, "prompts": work.prompts_digest}
        )
        data = table_to_parquet(table)
        return Made(objects={"statistics": self._put("statistics", data, suffix="parquet")})

    def _statistics(self, kind: str, key: str, role: str) -> Statistics:
        commit = self.store.get(kind, key)
        return Statistics.from_arrow(parquet_to_table(self.store.load(commit, role)))

    def _mask(self, work: MaskWork) -> Made:
        target = self._statistics("statistics", work.target, "statistics")
        base = self._statistics("statistics", work.base, "statistics")
        retained = [self._statistics("statistics", key, "statistics") for key in work.retained]
        weights = read_weights(self.model.source.folder() / COMPONENT, target.layers, self.dtype)
        energy = target.energy()
        exceeded = base_energy(base, retained, work.rule, num_prompts=target.num_prompts)
        entries = select_entries(weights, energy, exceeded, work.selection)
        layers = {
            name: LayerMask(
                shape=(weight.shape[0], weight.shape[1]),
                entries=entries[name],
                weight_digest=weight_digest(weight),
            )
            for name, weight in weights.items()
        }
        mask = PruningMask(
            concepts=(work.concept,),
            component=COMPONENT,
            layers=layers,
            provenance={
                **work.provenance,
                "site": work.site,
                "timesteps": target.timesteps[: work.selection.tau],
            },
        )
        tau = work.selection.tau
        table = neurons_table(
            mask,
            work.key,
            target={name: calls[:tau] for name, calls in energy.items()},
            base={name: calls[:tau] for name, calls in exceeded.items()},
        )
        made = self._made_mask(mask)
        neurons = self._put("neurons", table_to_parquet(table), suffix="parquet")
        return Made(objects={**made.objects, "neurons": neurons}, facts=made.facts)

    def _fuse(self, work: FuseWork) -> Made:
        return self._made_mask(union_masks([read_mask(self.store, key) for key in work.masks]))

    def _made_mask(self, mask: PruningMask) -> Made:
        return Made(
            objects={"mask": self._put("mask", mask.to_bytes(), suffix="safetensors")},
            facts={"entries": mask.num_entries, "site_weights": mask.num_weights},
        )

    def _checkpoint(self, work: CheckpointWork) -> Made:
        mask = read_mask(self.store, work.mask)
        folder = self.model.source.folder()
        if work.form == "delta":
            data = delta_file(mask, folder)
            return Made(objects={"delta": self._put("delta", data, suffix="safetensors")})
        files = {
            path: self._put("pipeline", data, suffix=path.rsplit(".", 1)[-1])
            for path, data in pipeline_files(mask, folder)
        }
        return Made(objects=files)

    def _preview(self, work: PreviewWork) -> Made:
        mask = None if work.mask is None else read_mask(self.store, work.mask)
        if mask:
            mask.apply(self.denoiser.denoiser)
        memory = self._preview_memory.setdefault(work.batch_size, BatchMemory(work.batch_size))
        try:
            images = memory.run(
                lambda at_once: draw(
                    self.denoiser,
                    work.prompts,
                    steps=work.steps,
                    guidance=work.guidance,
                    batch_size=work.batch_size,
                    at_once=at_once,
                )
            )
        finally:
            if mask:
                mask.remove(self.denoiser.denoiser)
        judge = self.judge if work.judge else None
        data = table_to_parquet(preview_table(work.prompts, images, judge))
        objects = {"preview": self._put("preview", data, suffix="parquet")}
        return Made(objects=objects, facts={"at_once": memory.at_once})


def read_mask(store: Store, key: str) -> PruningMask:
    """The committed mask of that key.

    Raises:
        StoreError: it is not committed, or is damaged.
    """
    return PruningMask.from_bytes(store.load(store.get("mask", key), "mask"))
