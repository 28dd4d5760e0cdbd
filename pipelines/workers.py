"""The Ray side of a worker: warm actors for denoiser work, tasks for the rest."""

from dataclasses import dataclass
from typing import Any

import ray
import torch

from conceptprune.collect import CollectionSettings
from conceptprune.manifest import Compute
from conceptprune.stages import Worker
from conceptprune.store import Commit, Store
from conceptprune.work import ModelSettings, PreviewWork, WindowWork, Work


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """What a worker process is built from; small, and free of credentials."""

    store: str
    model: ModelSettings
    settings: CollectionSettings
    threads: int
    """torch threads, fixed because sums depend on how they are split."""

    def build(self) -> Worker:
        """A worker in this process."""
        torch.set_num_threads(self.threads)
        return Worker(Store(self.store), self.model, self.settings)


class DenoiserActor:
    """A warm worker: loads the model once and keeps it on its device."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._worker = spec.build()

    def run(self, work: Work) -> Commit:
        """Do one unit."""
        return self._worker.run(work)


def run_alone(spec: WorkerSpec, work: Work) -> Commit:
    """Do one unit that needs no denoiser."""
    return spec.build().run(work)


def needs_denoiser(work: Work) -> bool:
    """Whether a unit runs the denoiser, and so belongs on a warm actor."""
    return isinstance(work, WindowWork | PreviewWork)


@dataclass(slots=True, eq=False)
class ActorSlot:
    """One actor and the units it has been given, oldest first."""

    handle: Any
    in_flight: list[Work]


class WorkerPool:
    """Up to `max_actors` actors, started as work asks for them, and bounded tasks."""

    IN_FLIGHT_PER_ACTOR = 2
    """One running and one waiting, so that an actor never idles for a round trip."""

    def __init__(self, spec: WorkerSpec, compute: Compute) -> None:
        """A pool on the cluster this process is connected to."""
        self.spec = spec
        self.max_actors = compute.actors
        self.max_tasks = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
        self._actor_class = ray.remote(DenoiserActor).options(
            num_cpus=compute.cpus_per_actor,
            num_gpus=compute.gpus_per_actor,
            max_restarts=0,
            max_task_retries=0,
        )
        self._task = ray.remote(run_alone).options(num_cpus=1, max_retries=0)
        self._spec_ref = ray.put(spec)
        self.slots: list[ActorSlot] = []
        self._running: dict[Any, tuple[Work, ActorSlot | None]] = {}

    @property
    def refs(self) -> list[Any]:
        """References of everything in flight."""
        return list(self._running)

    def has_room(self, work: Work) -> bool:
        """Whether `work` can be submitted now."""
        if not needs_denoiser(work):
            tasks = sum(slot is None for _, slot in self._running.values())
            return tasks < self.max_tasks
        return len(self.slots) < self.max_actors or any(
            len(slot.in_flight) < self.IN_FLIGHT_PER_ACTOR for slot in self.slots
        )

    def submit(self, work: Work) -> None:
        """Start a unit on the least busy actor, on a new one, or as a task."""
        if not needs_denoiser(work):
            self._running[self._task.remote(self._spec_ref, work)] = (work, None)
            return
        slot = min(self.slots, key=lambda slot: len(slot.in_flight), default=None)
        if slot is None or (slot.in_flight and len(self.slots) < self.max_actors):
            slot = ActorSlot(self._actor_class.remote(self.spec), [])
            self.slots.append(slot)
        slot.in_flight.append(work)
        self._running[slot.handle.run.remote(work)] = (work, slot)

    def collect(self, ref: Any) -> tuple[Work, ActorSlot | None]:
        """Take a finished reference off the books."""
        work, slot = self._running.pop(ref)
        if slot is not None:
            slot.in_flight.remove(work)
        return work, slot

    def drop(self, slot: ActorSlot) -> list[Work]:
        """Forget a dead actor; returns the units it still had."""
        if slot in self.slots:
            self.slots.remove(slot)
        for ref in [ref for ref, (_, owner) in self._running.items() if owner is slot]:
            del self._running[ref]
        return slot.in_flight

    def release_idle(self) -> None:
        """Let go of actors that have nothing to do, and of their devices."""
        for slot in [slot for slot in self.slots if not slot.in_flight]:
            self.slots.remove(slot)
            ray.kill(slot.handle)

    def close(self) -> None:
        """Let go of every actor."""
        for slot in self.slots:
            ray.kill(slot.handle)
        self.slots.clear()
