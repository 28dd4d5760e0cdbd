"""What a job records while it runs: the run's ledger, and its own sign of life."""

import json
import logging
import os
import platform
import secrets
import time
from collections.abc import Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from conceptprune.digest import canonical_json
from conceptprune.errors import StoreError
from conceptprune.store import Store
from conceptprune.units.unit_plan import UnitPlan

from .ledger import Made, ledger_rows, write_ledger
from .run_files import told_if_damaged

if TYPE_CHECKING:
    # `status` reads these records without Ray.
    from ..scheduling.loop import Result, Tick

JOBS_FOLDER = "jobs"
SECONDS_BETWEEN_SIGNS = 10.0
SHARE_OF_TIME = 0.05
"""The ledger takes at most this share of the driver's time: a slow one is written less often."""
LOST_AFTER = 60.0
"""Seconds without a sign of life after which a job is taken to be dead."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """A job's sign of life."""

    job: str
    worker: str
    """Host and process of its driver."""
    started: float
    seen: float
    """When it last gave a sign of life; seconds since 1970."""
    state: Literal["running", "done", "failed", "stopped"] = "running"
    """`failed`: it ended, but something is missing. `stopped`: it was told to end."""
    done: int = 0
    left: int = 0
    in_flight: int = 0
    actors: int = 0

    @property
    def lost(self) -> bool:
        """Whether it is recorded as running, but gave no sign of life for `LOST_AFTER` seconds."""
        return self.state == "running" and time.time() - self.seen > LOST_AFTER

    @property
    def units_per_second(self) -> float | None:
        """The average since it began; None before the first unit is done."""
        seconds = self.seen - self.started
        return self.done / seconds if self.done and seconds > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """Until it is done, at the average rate so far; None if there is no rate yet."""
        rate = self.units_per_second
        return None if rate is None else self.left / rate

    def write(self, store: Store, run: str) -> None:
        """Write or replace the record."""
        store.write_run_file(
            run, f"{JOBS_FOLDER}/{self.job}.json", canonical_json(asdict(self)).encode()
        )


def new_job() -> str:
    """A job id; ids sort by the time when they were made."""
    return f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"


def job_records(store: Store, run: str) -> list[JobRecord]:
    """The jobs that worked on a run, oldest first.

    Raises:
        StoreError: a record is damaged.
    """
    prefix = f"runs/run={run}/"
    records = []
    for name in sorted(
        entry.path.removeprefix(prefix) for entry in store.entries(f"{prefix}{JOBS_FOLDER}")
    ):
        data = store.read_run_file(run, name)
        if data is not None:
            with told_if_damaged(store, run, name):
                known = {field.name for field in fields(JobRecord)}
                content = json.loads(data)
                records.append(JobRecord(**{k: v for k, v in content.items() if k in known}))
    return records


class Journal:
    """Keeps ledger and sign of life up to date, from a thread that the job does not wait for."""

    def __init__(
        self,
        store: Store,
        plan: UnitPlan,
        job: str,
        *,
        todo: Collection[str],
        reused: Mapping[str, Made],
    ) -> None:
        self.store = store
        self.plan = plan
        self.todo = todo
        self.reused = reused
        self.results: dict[str, Result] = {}
        now = time.time()
        self.record = JobRecord(
            job=job,
            worker=f"{platform.node()}/{os.getpid()}",
            started=now,
            seen=now,
            left=len(todo),
        )
        self._next_sign = self._next_ledger = 0.0
        self._writer = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def extend(self, plan: UnitPlan, *, todo: Collection[str], reused: Mapping[str, Made]) -> None:
        """Continue with a plan that adds units to the one before: some `todo`, some `reused`."""
        self.plan = plan
        self.todo = {*self.todo, *todo}
        self.reused = {**self.reused, **reused}

    def rows(self) -> list[dict[str, Any]]:
        """The ledger as it stands."""
        return ledger_rows(self.plan, todo=self.todo, results=self.results, reused=self.reused)

    def begin(self) -> None:
        """Put on record that the job has begun, and what it has to do."""
        write_ledger(self.store, self.plan.run, self.rows())
        self.record.write(self.store, self.plan.run)

    def on_tick(self, tick: "Tick") -> None:
        """Write what is due, unless the last write is still going on."""
        now = time.monotonic()
        if now < self._next_sign or (self._writing and not self._writing.done()):
            return
        self._next_sign = now + SECONDS_BETWEEN_SIGNS
        self.record = replace(
            self._counted("running"), in_flight=tick.in_flight, actors=tick.actors
        )
        with_ledger = now >= self._next_ledger
        self._writing = self._writer.submit(self._write, self.record, with_ledger)

    def end(self, state: Literal["done", "failed", "stopped"]) -> list[dict[str, Any]]:
        """Put on record how the job ended; returns the final ledger.

        Raises:
            StoreError: it could not be written.
        """
        self._writer.shutdown()
        rows = self.rows()
        write_ledger(self.store, self.plan.run, rows)
        self._counted(state).write(self.store, self.plan.run)
        return rows

    def _counted(self, state: Literal["running", "done", "failed", "stopped"]) -> JobRecord:
        done = sum(result.status in ("done", "reused") for result in self.results.values())
        return replace(
            self.record,
            seen=time.time(),
            state=state,
            done=done,
            left=max(0, len(self.todo) - len(self.results)),
            in_flight=0,
            actors=0,
        )

    def _write(self, record: JobRecord, with_ledger: bool) -> None:
        try:
            record.write(self.store, self.plan.run)
            if with_ledger:
                # The rows are made in this thread too: 20,000 units take a good part of a second.
                started = time.thread_time()
                write_ledger(self.store, self.plan.run, self.rows())
                taken = time.thread_time() - started
                self._next_ledger = time.monotonic() + taken / SHARE_OF_TIME
        except StoreError as error:
            # No work is lost: workers commit their own results. The ledger is soon written again.
            logger.warning("the ledger could not be written just now: %s", error)
