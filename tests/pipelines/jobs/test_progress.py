"""The job's log has a line of progress now and then, however many units finish."""

import io
from typing import Literal

import pytest
from rich.console import Console

from pipelines.jobs import progress
from pipelines.jobs.progress import JobProgress
from pipelines.jobs.run import Outcome, tell_outcome
from pipelines.scheduling.loop import Result
from tests.pipelines.conftest import TinyStore


def test_progress_is_at_most_one_line_in_ten_seconds_and_one_at_the_end(
    tiny_store: TinyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    units = list(tiny_store.plan.units())
    clock = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    log = io.StringIO()
    seconds = 35.0
    with JobProgress(Console(file=log, width=200), tiny_store.plan, units) as shown:
        for unit in units:
            clock[0] += seconds / len(units)
            shown.advance(Result(unit=unit, status="done", attempts=1))
    lines = log.getvalue().splitlines()
    assert len(units) > 20
    assert len(lines) == 3 + 1
    assert lines[-1].startswith(f"3/3 concepts, {len(units)}/{len(units)} units")


def test_work_of_a_finished_concept_that_is_lost_and_done_again_is_counted(
    tiny_store: TinyStore,
) -> None:
    *others, last = tiny_store.plan.units()
    log = io.StringIO()
    with JobProgress(Console(file=log, width=200), tiny_store.plan, [last]) as shown:
        for unit in (last, others[0]):
            shown.advance(Result(unit=unit, status="done", attempts=1))
    assert log.getvalue().splitlines()[-1].startswith("3/3 concepts, 2/2 units")


def test_failed_and_blocked_units_are_no_progress_and_their_concepts_are_not_done(
    tiny_store: TinyStore,
) -> None:
    units = list(tiny_store.plan.units())
    mask = tiny_store.plan.concepts[0].mask
    log = io.StringIO()
    with JobProgress(Console(file=log, width=200), tiny_store.plan, units) as shown:
        for unit in units:
            status: Literal["done", "failed", "blocked"] = (
                "failed" if unit.key == mask.key else "done"
            )
            if ("mask", mask.key) in unit.needs:
                status = "blocked"
            error = None if status == "done" else "ValueError"
            shown.advance(Result(unit=unit, status=status, attempts=1, error=error))
    blocked = sum(("mask", mask.key) in unit.needs for unit in units)
    last = log.getvalue().splitlines()[-1]
    assert last.startswith(f"2/3 concepts, {len(units) - 1 - blocked}/{len(units)} units")
    assert last.endswith(f"1 failed, {blocked} blocked")


@pytest.mark.parametrize(
    ("statuses", "start"), [(["failed", "blocked"], "failed: run"), (["reused"], "nothing to c")]
)
def test_the_last_line_of_a_failed_run_does_not_say_that_there_was_nothing_to_do(
    statuses: list[str], start: str
) -> None:
    row = {"kind": "mask", "key": "0", "concepts": ["x"], "attempts": 3, "error": "ValueError"}
    outcome = Outcome(computed=0, reused=0, rows=[{**row, "status": each} for each in statuses])
    log = io.StringIO()
    tell_outcome(Console(file=log, width=200), "run 7", outcome, 1.0, "s")
    assert log.getvalue().splitlines()[-1].startswith(start)
