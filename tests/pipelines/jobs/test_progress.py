"""The job's log has a line of progress now and then, however many units finish."""

import io

import pytest
from rich.console import Console

from pipelines.jobs import progress
from pipelines.jobs.progress import JobProgress
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
