"""Every benchmark runs and measures something, at a size that says nothing about speed."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import (
    families,
    loading,
    memory,
    overhead,
    page,
    results,
    resume,
    scale,
    selection,
    speed,
)
from benchmarks.erasure.baselines import RESULTS
from benchmarks.erasure.baselines_table import PAGE
from benchmarks.erasure.baselines_table import page as baselines_page
from benchmarks.results import Measurement


@pytest.mark.parametrize(
    "run",
    [
        speed.run_minimal,
        overhead.run_minimal,
        families.run_minimal,
        loading.run_minimal,
        selection.run_minimal,
        memory.run_minimal,
        scale.run_minimal,
        resume.run_minimal,
        page.run_minimal,
    ],
    ids=[
        *("speed", "overhead", "families", "loading", "selection", "memory", "scale", "resume"),
        "page",
    ],
)
def test_every_case_runs(run: Callable[[], list[Measurement]]) -> None:
    measurements = run()

    assert measurements
    assert all(math.isfinite(measurement.value) for measurement in measurements)


def test_a_second_run_keeps_the_cases_it_did_not_run(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    slow = Measurement(what="time", value=3.0, unit="s", at_most=2.0)
    quick = Measurement(what="time", value=1.0, unit="s", at_most=2.0)

    results.write(path, {"first": [slow], "second": [slow]})
    results.write(path, {"second": [quick]})

    cases = json.loads(path.read_text())
    assert cases["first"]["measurements"][0]["met"] is False
    assert cases["second"]["measurements"][0]["met"] is True


def test_the_baselines_page_is_what_its_results_say() -> None:
    lines = [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]
    assert PAGE.read_text(encoding="utf-8") == baselines_page(lines)
