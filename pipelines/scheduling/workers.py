"""The Ray side of a worker: warm actors for units that run a network, tasks for the rest."""

import os
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError

from conceptprune.manifest import Compute
from conceptprune.manifest.model_settings import ModelSettings
from conceptprune.redaction import without_secrets
from conceptprune.store import Store
from conceptprune.store.claims import Claims
from conceptprune.units.commit import Done, Held, worker_name
from conceptprune.units.unit import Unit

from ..console import exits
from ..console.logs import LogFormat, configure, identified, logger
from .cluster import draining_nodes, is_up, lack, ran_on
from .heap import keep_freed_memory
from .metrics import StoreMetrics


class UnitRunner(Protocol):
    """Does units in a worker process; usually a `UnitWorker` of the library."""

    def run_claimed(self, unit: Any, /) -> Done | Held:
        """Do one unit, or return who is doing it."""


class RunnerSpec(Protocol):
    """What a worker process builds its runner from; small, and without credentials."""

    @property
    def run_id(self) -> str:
        """The run's id, for the log."""

    def build(self) -> UnitRunner:
        """Build a runner in this process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerProcess:
    """What every worker process of a job has, for all kinds of units."""

    store: str
    job: str
    claim_seconds: float
    threads: int
    """Number of torch threads, fixed because sums depend on how they are split."""
    on_cpu: bool
    """Whether activations are on the CPU, where they are allocated anew at every call."""
    run: str
    """The run's id, for the log."""
    conditional: bool
    """Whether the store honours conditional puts."""
    log_format: LogFormat

    @classmethod
    def of(
        cls, store: Store, compute: Compute, *, job: str, run: str, form: LogFormat
    ) -> "WorkerProcess":
        """The settings for a job on `store`."""
        return cls(
            store=store.place,
            job=job,
            claim_seconds=compute.claim_seconds,
            threads=compute.threads_per_actor,
            on_cpu=not compute.gpus_per_actor,
            run=run,
            conditional=store.conditional,
            log_format=form,
        )

    def begin(self) -> Claims:
        """Set up this process; returns the claims for its store."""
        # A worker loads models several times, and nobody sees its progress bars.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        import torch

        configure(self.log_format)
        if self.on_cpu:
            keep_freed_memory()
        torch.set_num_threads(self.threads)
        return Claims(
            Store(self.store, StoreMetrics()),
            job=self.job,
            worker=worker_name(),
            seconds=self.claim_seconds,
            conditional=self.conditional,
            on_stuck=end_process,
        )


def end_process() -> None:
    """End this process, whose unit is stuck; if it is a worker, the driver retries the unit.

    That counts as a failed attempt, so a unit that always gets stuck ends as failed.
    """
    logger.critical(
        "this process ends itself, so that its unit is tried again, by the job or by its next run"
    )
    os._exit(exits.FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """What a worker process of an erase job is built from."""

    process: WorkerProcess
    model: ModelSettings

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.process.run

    def build(self) -> UnitRunner:
        """Build a worker in this process."""
        # Imported here because the driver, which only plans and hands out units, does not need it.
        from conceptprune.evaluation.preview_worker import ScoringWorker

        claims = self.process.begin()
        return ScoringWorker(claims.store, self.model, claims)


class DenoiserActor:
    """A warm worker: loads the model once and keeps it on its device."""

    def __init__(self, spec: RunnerSpec) -> None:
        self._run_id = spec.run_id
        self._runner = spec.build()

    def node(self) -> str:
        """Id of the node it is on."""
        node: str = ray.get_runtime_context().get_node_id()
        return node

    def run(self, unit: Unit) -> Done | Held:
        """Do one unit, or return who is doing it, and log it."""
        with identified(run=self._run_id, kind=unit.kind, key=unit.key):
            try:
                found = self._runner.run_claimed(unit)
            except Exception as error:
                # Only the type of the error: its text may quote prompts, and the driver has it.
                logger.warning("failed: %s", type(error).__name__)
                # Redact here, where the secrets are known that a service may have echoed.
                raise without_secrets(error) from None
            logger.info("done" if isinstance(found, Done) else "another job is computing it")
            return found


def run_alone(spec: RunnerSpec, unit: Unit) -> Done | Held:
    """Do one unit that runs no network and needs no long-lived process."""
    return DenoiserActor(spec).run(unit)


@dataclass(slots=True, eq=False)
class ActorSlot:
    """One actor and the units it was given, oldest first."""

    handle: Any
    node_ref: Any
    node: str | None = None
    """Known once the actor has started."""
    draining: bool = False
    """True if its node is about to go: it finishes its current unit, and gets no more."""
    in_flight: "list[Submission]" = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Submission:
    """A submitted unit."""

    ref: Any
    unit: Unit
    slot: ActorSlot | None
    """The actor that has it; None for a task."""
    waited: bool = False
    """True if its end was reported while its actor still had an earlier unit."""

    def result(self) -> Done | Held:
        """Its result.

        Raises:
            RayError: it failed, or its worker did.
        """
        outcome: Done | Held = ray.get(self.ref)
        return outcome


class WorkerPool:
    """Up to `max_actors` actors, started as needed, and a bounded number of tasks.

    Actors are requested whether or not there is room for them, so that an autoscaler sees it.
    """

    IN_FLIGHT_PER_ACTOR = 2
    """One running and one waiting, so that an actor never idles for a round trip."""

    def __init__(self, spec: RunnerSpec, compute: Compute) -> None:
        """A pool on the cluster this process is connected to."""
        self.max_actors = compute.actors
        self._compute = compute
        self._actor_class = ray.remote(DenoiserActor).options(
            num_cpus=compute.cpus_per_actor,
            num_gpus=compute.gpus_per_actor,
            max_restarts=0,
            max_task_retries=0,
        )
        self._task = ray.remote(run_alone).options(num_cpus=1, max_retries=0)
        self._spec = spec
        self._spec_ref = ray.put(spec)
        self.slots: list[ActorSlot] = []
        self._running: dict[Any, Submission] = {}
        self._tasks = 0
        self._cpus = 1
        self.refresh()

    @property
    def in_flight(self) -> int:
        """How many units are in flight."""
        return len(self._running)

    @property
    def alive(self) -> int:
        """How many of the requested actors have started."""
        return sum(slot.node is not None for slot in self.slots)

    @property
    def lacking(self) -> str | None:
        """What units in flight are waiting for that the cluster lacked at the last look."""
        return lack(
            self._compute,
            cpus=self._cpus,
            asked=len(self.slots),
            alive=self.alive,
            tasks=self._tasks,
        )

    def refresh(self) -> list[Unit]:
        """Look at the cluster: its size, and which of its nodes are about to go.

        Returns:
            The units that waited on nodes about to go, which are now unassigned.
        """
        # A growing cluster can take more tasks.
        self._cpus = int(ray.cluster_resources().get("CPU", 0))
        leaving = draining_nodes()
        handed_back: list[Unit] = []
        for slot in self.slots:
            if slot.node is None:
                slot.node = _ready(slot.node_ref)
            if slot.node in leaving and not slot.draining:
                slot.draining = True
                # Do not wait: a cancelled call only returns when the one before it ends.
                for submission in slot.in_flight[1:]:
                    ray.cancel(submission.ref)
                    del self._running[submission.ref]
                    handed_back.append(submission.unit)
                del slot.in_flight[1:]
        return handed_back

    def has_room(self, unit: Unit) -> bool:
        """Whether `unit` can be submitted now."""
        return self._has_actor_room() if unit.warm else self._tasks < 2 * max(1, self._cpus)

    def submit(self, unit: Unit) -> None:
        """Start a unit on the least busy actor, on a new one, or as a task."""
        if not unit.warm:
            self._tasks += 1
            ref = self._task.remote(self._spec_ref, unit)
            self._running[ref] = Submission(ref, unit, None)
            return
        slot = min(self._staying, key=lambda slot: len(slot.in_flight), default=None)
        if slot is None or (slot.in_flight and len(self._staying) < self.max_actors):
            handle = self._actor_class.remote(self._spec)
            slot = ActorSlot(handle, handle.node.remote())
            self.slots.append(slot)
        ref = slot.handle.run.remote(unit)
        submission = Submission(ref, unit, slot)
        slot.in_flight.append(submission)
        self._running[ref] = submission

    def wait(self, seconds: float) -> list[Submission]:
        """Submissions that have finished; waits at most `seconds` for the first one."""
        if not self._running:
            time.sleep(seconds)
            return []
        refs = list(self._running)
        finished, _ = ray.wait(refs, num_returns=1, timeout=seconds)
        if finished:
            # And whatever else has finished already.
            finished, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        return [self._collect(ref) for ref in finished]

    def was_taken_away(self, submission: Submission, error: RayActorError) -> bool:
        """Whether an actor died because its node went away, not because of its unit."""
        if error.preempted:
            return True
        slot = submission.slot
        if slot is None:
            return False
        if error.actor_init_failed:
            return False
        node = slot.node or ran_on(error.actor_id)
        # If it never ran, it was assigned to a node that was already gone.
        return node is None or slot.draining or not is_up(node)

    def has(self, slot: ActorSlot | None) -> bool:
        """Whether an actor is still in use."""
        return slot in self.slots

    def drop(self, submission: Submission) -> list[Unit]:
        """Forget a submission's dead actor; returns the units it still had."""
        slot = submission.slot
        if slot is None or slot not in self.slots:
            return []
        self.slots.remove(slot)
        ray.kill(slot.handle)
        left = list(slot.in_flight)
        slot.in_flight.clear()
        for waiting in left:
            del self._running[waiting.ref]
        return [waiting.unit for waiting in left]

    def release_idle(self, open_warm_units: int) -> None:
        """Release idle actors without remaining units, and those whose node is leaving."""
        idle = [slot for slot in self.slots if not slot.in_flight]
        if not idle:
            return
        given = sum(len(slot.in_flight) for slot in self.slots)
        left = open_warm_units - given
        for index, slot in enumerate(idle):
            if slot.draining or index >= left:
                self.slots.remove(slot)
                ray.kill(slot.handle)

    def close(self) -> None:
        """Release all actors."""
        for slot in self.slots:
            ray.kill(slot.handle)
        self.slots.clear()

    @property
    def _staying(self) -> list[ActorSlot]:
        return [slot for slot in self.slots if not slot.draining]

    def _has_actor_room(self) -> bool:
        staying = self._staying
        return len(staying) < self.max_actors or any(
            len(slot.in_flight) < self.IN_FLIGHT_PER_ACTOR for slot in staying
        )

    def _collect(self, ref: Any) -> Submission:
        submission = self._running.pop(ref)
        if submission.slot is None:
            self._tasks -= 1
        else:
            submission.waited = submission.slot.in_flight[0] is not submission
            submission.slot.in_flight.remove(submission)
        return submission


def _ready(ref: Any) -> Any:
    """A result that is already available; None if it is not, or never will be."""
    try:
        return ray.get(ref, timeout=0)
    except (GetTimeoutError, RayError):
        return None
