"""`conceptprune status`: what became of each run of a store, and what a rerun would do."""

import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from rich.console import Console

from conceptprune.digest import METHOD_VERSION
from conceptprune.errors import StoreError
from conceptprune.store import Store
from conceptprune.store.claims import Claim, claims_by_age

from ..console.logs import one_line
from ..console.names import some
from ..records.combined import combined_row, how_combined, lacking
from ..records.concepts import ConceptStates
from ..records.evaluation import EvaluationRecord
from ..records.journal import JobRecord, job_records
from ..records.ledger import open_ledger
from ..records.run_record import RunRecord
from ..records.runs import AnyRecord, UnknownRecord, recorded, run_records, unknown_records
from ..records.unknown import unknown_to_this_version
from ..records.whose import Whose
from ..scheduling.graph import Committed, committed_in

OPEN = ("failed", "blocked", "pending")
"""Ledger statuses of units without a result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """One run as the store has it now."""

    record: AnyRecord
    rows: list[dict[str, Any]]
    """The ledger, put right by what is committed now: what has been finished since is done, and a
    result that was lost since is pending."""
    jobs: list[JobRecord]
    claims: list[Claim]
    """What its workers are at."""
    states: ConceptStates | None = None
    """What became of its concepts, as its last job found; None where that is not on record."""
    not_shown: tuple[str, ...] = ()
    """What is on record of it that this version does not know."""
    wrong: Mapping[str, str] = field(default_factory=dict)
    """By concept, why what is recorded as its mask is not."""
    wrong_combined: str = ""
    """Why what is recorded as the combined checkpoint is not; empty if it is, or there is none."""

    @classmethod
    def read(
        cls,
        store: Store,
        record: AnyRecord,
        committed: Committed,
        claims: Sequence[Claim] = (),
        whose: Whose | None = None,
    ) -> "RunStatus":
        """The status of a run; `committed` tells what changed since its last ledger."""
        ledger = open_ledger(store, record.run)
        rows = ledger.rows
        for row in rows:
            there = committed(row["kind"], row["key"])
            if row["status"] in OPEN and there:
                row["status"] = "done"
            elif row["status"] not in OPEN and not there and not row["intermediate"]:
                row["status"] = "pending"
        jobs = job_records(store, record.run)
        ids = {job.job for job in jobs}
        mine = [claim for claim in claims if claim.job in ids]
        unknown = tuple(unknown_to_this_version(record, ledger))
        states = ConceptStates.read(store, record.run) if isinstance(record, RunRecord) else None
        done = [row for row in rows if committed(row["kind"], row["key"])]
        whose = whose or Whose(store)
        return cls(
            record=record,
            rows=rows,
            jobs=jobs,
            claims=mine,
            states=states,
            not_shown=unknown,
            wrong=whose.wrong(done),
            wrong_combined=whose.wrong_combined(done, rows),
        )

    @property
    def num_concepts(self) -> int:
        """How many concepts the run is to erase, or checkpoints to evaluate."""
        if isinstance(self.record, EvaluationRecord):
            return len(self.record.checkpoints)
        if isinstance(self.record, RunRecord) and self.record.asked.concepts:
            return len(self.record.asked.concepts)
        return len({name for row in self.rows for name in row["concepts"]})

    @property
    def num_concepts_done(self) -> int:
        """How many concepts miss nothing."""
        known = {name for row in self.rows for name in row["concepts"]}
        unfinished = {name for row in self.open_rows for name in row["concepts"]}
        return len(known - unfinished - self.wrong.keys())

    @property
    def open_rows(self) -> list[dict[str, Any]]:
        """Ledger rows of units without a result."""
        return [row for row in self.rows if row["status"] in OPEN]

    @property
    def of_another_method(self) -> bool:
        """Whether its results are of another version of the method, so that none is used again."""
        record = self.record
        return not isinstance(record, UnknownRecord) and record.method != METHOD_VERSION

    @property
    def rerun_units(self) -> int:
        """How many units a rerun would compute."""
        return len(self.rows if self.of_another_method else self.open_rows)


def show_status(store: str, console: Console) -> None:
    """Print each run of a store, the newest first.

    Raises:
        UserError: the store has no run.
        StoreError: the store cannot be read.
    """
    opened = Store(store)
    claims = claims_by_age(opened)
    told: set[str] = set()
    for record, status in read_statuses(opened, claims):
        # Something of a run may be damaged, which says nothing of the others.
        if isinstance(status, StoreError):
            lines = [one_line(f"run {record.run}: {status}")]
        else:
            lines = list(_lines(status))
            told |= {claim.path for claim in status.claims}
        for line in lines:
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    for line in _other_claims(claims, told):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def read_statuses(
    opened: Store, claims: Sequence[tuple[Claim, float]]
) -> Iterator[tuple[AnyRecord, "RunStatus | StoreError"]]:
    """Each run of a store, the newest first, and what became of it or why that cannot be read.

    `claims` are the store's, each with its age in seconds.

    Raises:
        UserError: the store has no run.
        StoreError: the store cannot be read.
    """
    committed = committed_in(opened)
    whose = Whose(opened)
    live = [claim for claim, age in claims if age < claim.seconds]
    runs: list[AnyRecord] = list(unknown_records(opened))
    damaged: list[tuple[UnknownRecord, StoreError]] = []
    for run in opened.runs():
        try:
            found = (EvaluationRecord.read(opened, run), recorded(opened, run))
            runs += [record for record in found if record]
        except StoreError as error:
            damaged.append((UnknownRecord(run=run), error))
    if not runs and not damaged:
        # For its error, which says what to do.
        run_records(opened)
    for record in sorted(runs, key=lambda record: (record.started, record.run), reverse=True):
        try:
            yield record, RunStatus.read(opened, record, committed, live, whose)
        except StoreError as error:
            yield record, error
    yield from damaged


def _other_claims(claims: Sequence[tuple[Claim, float]], told: Collection[str]) -> Iterator[str]:
    """Claims of jobs that no run has on record, and those that are no longer renewed."""
    for claim, age in claims:
        if claim.path not in told:
            lapsed = "" if age < claim.seconds else ", so that it binds nobody"
            yield one_line(
                f"claim on {claim.kind} {claim.key[:12]}: job {claim.job}, {claim.worker}, renewed "
                f"{age:.0f} s ago{lapsed}"
            )


def _lines(status: RunStatus) -> Iterator[str]:
    record = status.record
    yield (
        f"evaluation {record.run}" if isinstance(record, EvaluationRecord) else f"run {record.run}"
    )
    match record:
        case EvaluationRecord():
            yield f"  suite     {one_line(record.name)}"
        case RunRecord():
            yield f"  model     {one_line(record.model_label)}, digest {record.model_identity[:12]}"
    if status.not_shown:
        yield "  " + one_line(f"not shown {'; '.join(status.not_shown)}: of another version")
    if not isinstance(record, UnknownRecord):
        yield f"  started   {_started(record)}"
    match record:
        case EvaluationRecord():
            yield "  " + one_line(f"of        {', '.join(record.labels)}")
        case RunRecord():
            yield f"  concepts  {status.num_concepts_done} of {status.num_concepts} done"
            yield from _states(status)
            yield from _combined(status.rows)
    yield from _jobs(status.jobs)
    for claim in status.claims:
        since = f"{max(0, time.time() - claim.since):.0f} s"
        yield one_line(f"  computing {claim.kind} {claim.key[:12]}, {claim.worker}, for {since}")
    if not status.rows:
        yield "  units     none on record: the job has just begun, or was stopped before the first"
        return
    counts = Counter(row["status"] for row in status.rows)
    shown = ("done", "reused", *OPEN)
    yield "  units     " + ", ".join(f"{counts[name]} {name}" for name in shown)
    for row in status.rows:
        if row["status"] == "failed":
            yield f"  failed    {_failure(row)}"
    for name, problem in status.wrong.items():
        yield "  wrong     " + one_line(f"mask of {name}: {problem}")
    if status.wrong_combined:
        yield "  wrong     " + one_line(f"combined checkpoint: {status.wrong_combined}")
    yield from _blocked(status.rows)
    left = status.rerun_units
    verb = f"compute {left} {'unit' if left == 1 else 'units'}" if left else "compute nothing"
    if status.of_another_method:
        verb += f", all anew: they are not of version {METHOD_VERSION} of the method"
    wrong = status.wrong or status.wrong_combined
    verify = "; what is wrong, it computes again with --verify" if wrong else ""
    yield f"  rerun     a rerun would {verb}{verify}"


def _started(record: RunRecord | EvaluationRecord) -> str:
    """When its last job began, and its first where that was another."""
    first, last = record.first_started, record.started
    if first is None or first == last:
        return _when(last)
    return f"{_when(last)}, for the first time {_when(first)}"


def _when(seconds: float) -> str:
    if not seconds:
        return "at a time that is not known"
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _jobs(jobs: list[JobRecord]) -> Iterator[str]:
    """Jobs at work, and the last that ended."""
    last = jobs[-1:]
    for job in [job for job in jobs if job.state == "running" or job in last]:
        age = f"{max(0, time.time() - job.seen):.0f} s ago"
        if job.lost:
            yield one_line(f"  job       {job.job}, {job.worker}: no sign of life, last {age}")
        elif job.state == "running":
            yield one_line(
                f"  job       {job.job}, {job.worker}: running, sign of life {age}; {job.left} "
                f"units left, {job.in_flight} in flight, {job.actors} actors{_pace(job)}"
            )
        else:
            yield one_line(f"  job       {job.job}, {job.worker}: {job.state} {age}")


def _pace(job: JobRecord) -> str:
    """How fast a running job is, and how long it will go on at that rate."""
    rate, left = job.units_per_second, job.seconds_left
    if rate is None or left is None:
        return ""
    speed = f"{60 * rate:.1f} units a minute"
    hours, minutes = divmod(round(left / 60), 60)
    return f"; {speed}, about {f'{hours} h ' if hours else ''}{minutes} min left"


def _states(status: RunStatus) -> Iterator[str]:
    """What "done" means: that of masks, of which somebody may have looked at the effect."""
    if status.states is None:
        yield "  effect    not on record: no job of this version has ended"
        return
    for line in status.states.lines():
        yield "  effect    " + one_line(line)
    made = [each for each in status.states.states if each.first and each.last]
    if made:
        first = min(each.first.at for each in made if each.first)
        last = max(each.last.at for each in made if each.last)
        run = status.record.run
        others = [each.name for each in made if each.first and each.first.run not in (None, run)]
        by_others = f"; first by another run: {some(others)}" if others else ""
        yield "  erased    " + one_line(
            f"the first {_when(first)}, the last {_when(last)}{by_others} (each: --json)"
        )


def _combined(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """What became of the combined checkpoint, and whom it lacks, if anybody."""
    combined = combined_row(rows)
    if combined is None:
        return
    reworded = how_combined(combined) == "reworded"
    what, parts = ("a rewording", "sums") if reworded else ("a fused mask", "masks")
    without = lacking(combined, rows)
    lacks = f"; without {some(without)}, whose {parts} are not there" if without else ""
    yield "  combined  " + one_line(f"{what}, {combined['status']}{lacks}")


def _blocked(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """What is blocked, a line for each reason and kind of unit."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        if row["status"] == "blocked":
            groups.setdefault((row["error"] or "", row["kind"]), []).append(row)
    for (reason, kind), group in groups.items():
        names = list(dict.fromkeys(name for row in group for name in row["concepts"]))
        units = f"{len(group)} {kind} {'unit' if len(group) == 1 else 'units'}"
        whose = some(names) or "of all together"
        yield "  blocked   " + one_line(f"{units} ({whose}): {reason}")


def _failure(row: dict[str, Any]) -> str:
    concepts = row["concepts"]
    names = some(concepts)
    detail = f", {row['detail']}" if row["detail"] and row["detail"] not in concepts else ""
    attempts = f"{row['attempts']} {'attempt' if row['attempts'] == 1 else 'attempts'}"
    unit = f"{row['kind']} {row['key'][:12]} ({(names + detail).removeprefix(', ')})"
    return one_line(f"{unit} after {attempts}: {row['error']}")
