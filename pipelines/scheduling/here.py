"""A job without Ray: this process does all units, one after another."""

import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from conceptprune.units.commit import Done, Held
from conceptprune.units.unit import Unit

from .workers import DenoiserActor, RunnerSpec


@dataclass(frozen=True, slots=True, eq=False)
class HereSubmission:
    """The unit that this process is at, or has just done."""

    unit: Unit
    outcome: Future[Done | Held]

    def result(self) -> Done | Held:
        """Its result; raises what the unit raised."""
        return self.outcome.result()


class HerePool:
    """One unit at a time, in a thread, so that the job gives signs of life meanwhile.

    Nothing here can go away and leave the job behind, as an actor's process or machine can.
    """

    alive = 0
    lacking = None

    def __init__(self, spec: RunnerSpec) -> None:
        """A pool whose worker is set up with its first unit."""
        self._spec = spec
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="units")
        self._worker: DenoiserActor | None = None
        self._submission: HereSubmission | None = None

    @property
    def in_flight(self) -> int:
        """1 while there is a unit, else 0."""
        return int(self._submission is not None)

    def refresh(self) -> list[Unit]:
        """There is no cluster to look at."""
        return []

    def has_room(self, unit: Unit) -> bool:
        """Whether `unit` can be submitted now."""
        return self._submission is None

    def submit(self, unit: Unit) -> None:
        """Start a unit."""
        self._submission = HereSubmission(unit, self._thread.submit(self._run, unit))

    def wait(self, seconds: float) -> list[HereSubmission]:
        """The unit, if it has ended; waits at most `seconds`."""
        submission = self._submission
        if submission is None:
            time.sleep(seconds)
            return []
        if not wait([submission.outcome], timeout=seconds).done:
            return []
        self._submission = None
        return [submission]

    def release_idle(self, open_warm_units: int) -> None:
        """The worker stays until the job ends."""

    def close(self) -> None:
        """Do nothing more; a job that was told to stop ends with the unit that it is at."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _run(self, unit: Unit) -> Done | Held:
        if self._worker is None:
            self._worker = DenoiserActor(self._spec)
        return self._worker.run(unit)
