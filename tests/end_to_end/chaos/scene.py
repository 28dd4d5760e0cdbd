"""A store, real drivers that work on it, and what is counted when something is done to them."""

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import psutil

from conceptprune.store import Store
from conceptprune.units.units import FusedMaskUnit, MaskUnit
from pipelines.records.ledger import read_ledger
from tests.end_to_end.chaos.witness import KINDS, Witness

PATIENCE = 250.0
"""Seconds for anything that has to happen: this machine may have much else to do."""
LOOK = 0.02

Masks = dict[str, bytes]
"""By path, in which there is the digest."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a fault cost."""

    fault: str
    faults: int
    runs: int
    in_flight: int
    recomputed: int
    lost: int


@dataclass(frozen=True, slots=True)
class Driver:
    """A running `python -m pipelines.erase`."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def said(self) -> str:
        return self.log.read_text(encoding="utf-8")

    @property
    def computed(self) -> int:
        """How many units it says that it computed, the prompts not among them."""
        found = re.search(r"(\d+) units computed", self.said.replace("\n", " "))
        assert found, self.said
        return int(found[1])

    def ended(self, within: float = PATIENCE) -> int:
        """Its exit code."""
        return self.process.wait(within)


@dataclass
class Scene:
    """Everything one test does, and how it is judged."""

    uri: str
    witness: Witness
    expected: Masks
    units: int
    """Of the undisturbed job."""
    seed: int
    folder: Path
    environment: dict[str, str]
    drivers: list[Driver] = field(default_factory=list)
    faults: int = 0

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.store = Store(self.uri)

    def start(self, manifest: Path, *, within: Sequence[str] = (), **environment: str) -> Driver:
        """Start the job as a user does; `within` is a command that is given this one to run."""
        command = [sys.executable, "-m", "pipelines.erase", str(manifest), "--store", self.uri]
        log = self.folder / f"driver-{len(self.drivers)}.log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [*within, *command],
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**self.environment, **environment},
            )
        self.drivers.append(Driver(process, log))
        return self.drivers[-1]

    def finish(self, driver: Driver) -> None:
        """Wait for a driver that must succeed."""
        assert driver.ended() == 0, driver.said

    def committed(self) -> frozenset[str]:
        return frozenset().union(*(self.store.committed(kind) for kind in KINDS))

    def planned(self) -> frozenset[str]:
        """What is committed, but for the prompts, which a driver does not count as its units."""
        return self.committed() - self.store.committed("prompts")

    def wait_for_commits(self, number: int, driver: Driver) -> None:
        """Until so many units are committed; the driver must still be at work then."""
        self.wait(lambda: len(self.committed()) >= number or driver.process.poll() is not None)
        assert driver.process.poll() is None, driver.said

    def moment(self) -> int:
        """A number of commits after which to do harm: any but the first and the last ones."""
        return self.random.randrange(2, self.units * 7 // 10)

    def wait(self, condition: Callable[[], object]) -> None:
        until = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < until, "it did not happen in time"
            time.sleep(LOOK)

    def claims(self) -> dict[str, int]:
        """Units that are being computed, and by which process."""
        found = {}
        for entry in self.store.claims():
            data = self.store.read_claim(entry.path.removeprefix("claims/"))
            if data:
                claim = json.loads(data)
                found[claim["key"]] = int(claim["worker"].rpartition("/")[2])
        return found

    def busy_worker(self) -> psutil.Process:
        """A warm worker that is computing a window at this moment."""
        while True:
            self.wait(lambda: any(self.store.committed("window")) and self.claims())
            for pid in sorted(self.claims().values()):
                try:
                    process = psutil.Process(pid)
                    if "DenoiserActor" in " ".join(process.cmdline()):
                        return process
                except psutil.NoSuchProcess:
                    continue

    def in_flight(self) -> set[str]:
        """Units that are begun and not done.

        A worker that is told to go gives its claim back, so that claims alone do not tell.
        """
        return (self.witness.begun().keys() | self.claims().keys()) - self.committed()

    def in_flight_until_gone(self, workers: Iterable[psutil.Process]) -> set[str]:
        """What workers on their way out are at, until the last of them is gone or idle."""
        workers = list(workers)
        pids = {worker.pid for worker in workers}
        found: set[str] = set()

        def gone() -> bool:
            at_others = {key for key, pid in self.claims().items() if pid not in pids}
            found.update(self.in_flight() - at_others)
            return not any(at_work(worker) for worker in workers)

        self.wait(gone)
        # The witness may lag a little behind.
        time.sleep(10 * LOOK)
        gone()
        return found

    def attempts(self) -> int:
        """The largest number of attempts at a unit, as the last ledger has it."""
        rows = (row for run in self.store.runs() for row in self.ledger(run))
        return max(int(row["attempts"]) for row in rows)

    def ledger(self, run: str) -> list[dict[str, Any]]:
        return read_ledger(self.store, run)

    def masks(self) -> Masks:
        return masks_of(self.store)

    def again(self) -> set[str]:
        """Units that were begun more than once."""
        return {key for key, times in self.witness.begun().items() if times > 1}

    def outcome(self, fault: str, *, in_flight: set[str] | int, recomputed: int) -> Outcome:
        masks = self.masks()
        lost = sum(masks.get(name) != data for name, data in self.expected.items())
        return Outcome(
            fault=fault,
            faults=self.faults,
            runs=len(self.drivers),
            in_flight=in_flight if isinstance(in_flight, int) else len(in_flight),
            recomputed=recomputed,
            lost=lost + len(masks.keys() - self.expected.keys()),
        )

    def close(self) -> None:
        self.witness.close()
        for driver in self.drivers:
            if driver.process.poll() is None:
                driver.process.kill()
                driver.process.wait()


def masks_of(store: Store) -> Masks:
    """Every committed mask, of a concept or fused."""
    kinds = (MaskUnit.kind, FusedMaskUnit.kind)
    commits = [store.get(kind, key) for kind in kinds for key in store.committed(kind)]
    refs = [commit.objects["mask"] for commit in commits]
    return {ref.path: store.read(ref) for ref in refs}


def at_work(process: psutil.Process) -> bool:
    """Whether a process is a worker that has been given something to do."""
    try:
        running = process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        name = process.cmdline()[0] if running else ""
    except (psutil.NoSuchProcess, IndexError):
        return False
    return name.startswith(("ray::DenoiserActor", "ray::run_alone"))


def clean_environment() -> dict[str, str]:
    """This process's, with what Ray is told set on purpose."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**kept, **RAY}


RAY = {
    "RAY_AUTH_MODE": "disabled",
    # Ray runs workers at 15: where other programs are busy, they would hardly run at all.
    "RAY_worker_niceness": "0",
}


def table_of(outcomes: Iterable[Outcome]) -> list[str]:
    """One line for each fault, summed over the seeds."""
    sums: dict[str, Counter[str]] = {}
    for outcome in outcomes:
        counts = sums.setdefault(outcome.fault, Counter())
        for name in ("faults", "runs", "in_flight", "recomputed", "lost"):
            counts[name] += getattr(outcome, name)
    lines = [
        "| fault | injected | runs | units in flight | recomputed | losses |",
        "|---|---|---|---|---|---|",
    ]
    for fault, counts in sums.items():
        cells = " | ".join(str(number) for number in counts.values())
        lines.append(f"| {fault} | {cells} |")
    return lines
