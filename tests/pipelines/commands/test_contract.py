"""What `--json` prints is a contract: each field is in docs/COMMANDS.md, and none goes away."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conceptprune.store.claims import Claims
from pipelines.cli import main
from pipelines.commands.status_json import status_document
from pipelines.records.concepts import ConceptState, ConceptStates, Made
from pipelines.records.journal import JobRecord
from pipelines.scheduling.loop import Result
from tests.pipelines.conftest import TinyStore, copied, record_run, write_manifest

PAGE = (Path(__file__).parents[3] / "docs" / "COMMANDS.md").read_text(encoding="utf-8")
KEYED_BY_DATA = ("kinds", "runs.concepts.wrong")

COST = {"units", "evaluations", "bytes"}
PLAN = {"format", "run", "concepts", "estimate", "kinds"} | {
    field
    for whole in ("all", "left", "kinds.*.all", "kinds.*.left")
    for field in (whole, *(f"{whole}.{part}" for part in COST))
}
ESTIMATE = {
    f"estimate.{field}"
    for field in (
        *("evaluations", "evaluations_per_second", "workers"),
        *("seconds", "gpu_hours", "price"),
    )
}
DIFF = {
    *("format", "added", "dropped", "kept", "redone"),
    *("units", "evaluations", "bytes", "all_evaluations"),
}
OF_A_RUN = {
    *("run", "kind", "started", "first_started", "model", "model.label", "model.digest"),
    *("concepts", "concepts.all", "concepts.done", "concepts.wrong", "concepts.effect"),
    *("combined", "combined.how", "combined.status", "combined.wrong", "combined.lacking"),
    *("jobs", "units", "without_result", "rerun_units"),
}
OF_EFFECT = {"masks", "checked", "not_checked", "never_there", "each"}
OF_EACH = {
    *("name", "has_mask", "unchanged", "scorer", "metric", "before", "after"),
    *("checked", "never_there", "first", "last"),
    *(f"{when}.{field}" for when in ("first", "last") for field in ("at", "run", "job", "mask")),
}
OF_A_JOB = {
    *("job", "worker", "state", "started", "seen", "units_left", "in_flight", "actors"),
    *("units_done", "units_per_second", "seconds_left"),
}
WITHOUT_RESULT = {"kind", "key", "status", "concepts", "attempts", "error"}
STATUS = {
    *("format", "store", "runs", "claims"),
    *(f"runs.{field}" for field in OF_A_RUN),
    *(f"runs.units.{status}" for status in ("done", "reused", "failed", "blocked", "pending")),
    *(f"runs.concepts.effect.{field}" for field in OF_EFFECT),
    *(f"runs.concepts.effect.each.{field}" for field in OF_EACH),
    *(f"runs.jobs.{field}" for field in OF_A_JOB),
    *(f"runs.without_result.{field}" for field in WITHOUT_RESULT),
    *(f"claims.{field}" for field in ("kind", "key", "job", "worker", "since", "age", "live")),
}


def fields(value: Any, path: str = "") -> Iterator[str]:
    """Every field of a document, named as `runs.jobs.state`, whatever list it is in."""
    if isinstance(value, list):
        for each in value:
            yield from fields(each, path)
    elif isinstance(value, dict):
        for name, inside in value.items():
            shown = "*" if path in KEYED_BY_DATA else name
            here = f"{path}.{shown}" if path else shown
            if shown != "*":
                yield here
            yield from fields(inside, here)


def documented(names: set[str]) -> None:
    """Hold the fields against the page: each is there as code."""
    words = set(re.findall(r"`([a-z_]+)`", PAGE))
    last = {name.rpartition(".")[2] for name in names} - {"format", "*"}
    assert last - words == set()


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    with pytest.raises(SystemExit) as stop:
        main([str(each) for each in arguments])
    assert stop.value.code in (0, None)
    return json.loads(capsys.readouterr().out)


def test_the_fields_of_a_plan_are_the_documented_ones(
    tiny_store: TinyStore, capsys: pytest.CaptureFixture[str]
) -> None:
    found = printed(capsys, "plan", tiny_store.manifest, "--json", "--rate", 1, "--gpu-hour", 2)
    assert set(fields(found)) == PLAN | ESTIMATE
    documented(PLAN | ESTIMATE)


def test_the_fields_of_a_difference_are_the_documented_ones(
    tiny_store: TinyStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = write_manifest(tmp_path / "new.yaml", tiny_store.model, pruning={"sparsity": 0.03})
    found = printed(capsys, "diff", tiny_store.manifest, new, "--json")
    assert found["format"] == "conceptprune.diff/1"
    assert set(fields(found)) == DIFF
    documented(DIFF)


def test_the_fields_of_a_status_are_the_documented_ones(
    tiny_store: TinyStore, tmp_path: Path
) -> None:
    store = copied(tiny_store, tmp_path / "store", "objects")
    run = tiny_store.plan.run
    failed = Result(
        unit=tiny_store.plan.concepts[0].mask, status="failed", attempts=3, error="ValueError"
    )
    record_run(store, tiny_store.prepared, tiny_store.plan, [failed])
    made = Made(at=1.7e9, run=run, job="a", mask="m")
    ConceptStates((ConceptState(name="Ada Bell", has_mask=True, first=made, last=made),)).write(
        store, run
    )
    now = time.time()
    JobRecord(job="j", worker="w", started=now - 9, seen=now, done=3, left=4).write(store, run)
    with Claims(store, job="j", worker="w").held("window", "k"):
        found = status_document(store.uri)
    assert set(fields(found)) == STATUS
    documented(STATUS)
