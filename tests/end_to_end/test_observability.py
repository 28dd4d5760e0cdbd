"""A real job on a real Ray: what it exports is what the dashboard asks for, and its log is JSON."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import ray
import yaml

from conceptprune.store import Store
from pipelines.cli import main
from pipelines.records.ledger import read_ledger
from pipelines.scheduling.metrics import JobMetrics
from tests.end_to_end.conftest import masks

# Half a minute of computing, which a busy machine may take many minutes for.
pytestmark = pytest.mark.timeout(1800)

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "cluster" / "grafana" / "conceptprune.json"
METRIC = r"ray_conceptprune_\w+"
INTERRUPTIONS = "ray_conceptprune_interruptions_total"
SECONDS_TO_EXPORT = 60
CONCEPT = "Ada Bell"
NOTHING = "Nothing At All"
GOOD = {"name": CONCEPT, "kind": "style", "fillers": ["cat", "car"]}
POISON = {
    "name": NOTHING,
    "kind": "custom",
    "prompts": [{"base": "a cat", "target": "a CAT"}],  # Equal to the tokenizer.
}


def write_manifest(path: Path, model: Path, *concepts: dict[str, Any]) -> Path:
    content = {
        "version": 1,
        "model": {"folder": str(model)},
        "concepts": list(concepts),
        "collection": {"steps": 4, "tau": 2, "dtype": "float32", "device": "cpu"},
        "pruning": {"sparsity": 0.02},
        "outputs": {"deltas": True},
        "compute": {"actors": 1, "cpus_per_actor": 0.5},
    }
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def job(
    cluster: None, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """One job with a good and a poison concept: its log, its store and what it exported.

    This process may have driven other jobs: `before` is what they exported.
    """
    folder = tmp_path_factory.mktemp("observed")
    path = write_manifest(folder / "manifest.yaml", tiny_folder, GOOD, POISON)
    # A process exports all that it has counted at once.
    JobMetrics().unit(kind="before", status="done", attempts=1, evaluations=0)
    before = exported(lambda text: counted(text, 'kind="before"') == 1)
    errors = folder / "stderr"
    with errors.open("w", encoding="utf-8") as stream, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stderr", stream)
        with pytest.raises(SystemExit) as stop:
            main(["erase", str(path), "--store", str(folder / "store"), "--log-format", "json"])
    assert stop.value.code == 1
    store = Store(str(folder / "store"))
    rows = read_ledger(store, store.runs()[0])
    return {
        "lines": errors.read_text(encoding="utf-8").splitlines(),
        "rows": rows,
        "store": folder / "store",
        "before": before,
        "exported": exported(lambda text: counted(text) - counted(before) == len(rows)),
        "session": Path(ray._private.worker._global_node.get_session_dir_path()),
    }


def exported(complete: Callable[[str], bool]) -> str:
    """What Prometheus gets, as soon as it is complete; workers report once a second."""
    (node,) = ray.nodes()
    until = time.monotonic() + SECONDS_TO_EXPORT
    while True:
        with urlopen(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics") as answer:
            text: str = answer.read().decode()
        if complete(text) or time.monotonic() > until:
            return text
        time.sleep(0.5)


def counted(text: str, *labels: str) -> float:
    """Units with a result."""
    return values(text, "ray_conceptprune_units_total", *labels)


def names(text: str) -> set[str]:
    return set(re.findall(rf"^({METRIC})(?:{{| )", text, flags=re.MULTILINE))


def expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def dashboard_metrics() -> set[str]:
    return {name for expression in expressions() for name in re.findall(METRIC, expression)}


def values(text: str, name: str, *labels: str) -> float:
    lines = [line for line in text.splitlines() if line.startswith(f"{name}{{")]
    return sum(
        float(line.rpartition(" ")[2]) for line in lines if all(label in line for label in labels)
    )


def test_every_panel_asks_for_a_metric_that_the_job_exports(job: dict[str, Any]) -> None:
    metrics = JobMetrics()
    metrics.unit(kind="window", status="done", attempts=2, evaluations=0)
    for total in (1, 1, 3):
        metrics.interrupted(total)

    def more(text: str, name: str, *labels: str) -> float:
        return values(text, name, *labels) - values(job["exported"], name, *labels)

    text = exported(
        lambda text: more(text, INTERRUPTIONS) > 0 and dashboard_metrics() <= names(text)
    )
    assert all(re.search(METRIC, expression) for expression in expressions())
    assert dashboard_metrics() - names(text) == set()
    assert more(text, "ray_conceptprune_retries_total", 'kind="window"') == 1
    assert more(text, INTERRUPTIONS) == 3


def test_the_panel_of_failures_leaves_out_what_another_job_did() -> None:
    (asked,) = (found for found in expressions() if "kind, status" in found)
    (pattern,) = re.findall(r'status=~"([^"]+)"', asked)
    statuses = ("done", "reused", "failed", "blocked")
    assert [s for s in statuses if re.fullmatch(pattern, s)] == ["failed", "blocked"]


def test_the_runbook_says_what_to_do_about_metrics_that_there_are(job: dict[str, Any]) -> None:
    runbook = (ROOT / "cluster" / "RUNBOOK.md").read_text(encoding="utf-8")
    named = set(re.findall(METRIC, runbook))
    assert len(named) >= 5
    assert named <= dashboard_metrics()


def test_the_numbers_are_those_of_the_ledger(job: dict[str, Any]) -> None:
    rows, text, before = job["rows"], job["exported"], job["before"]
    for status in ("done", "failed", "blocked"):
        expected = sum(row["status"] == status for row in rows)
        label = f'status="{status}"'
        assert counted(text, label) - counted(before, label) == expected, status
    evaluations = sum(row["evaluations"] for row in rows if row["status"] == "done")
    total = "ray_conceptprune_evaluations_total"
    assert values(text, total) - values(before, total) == evaluations
    assert values(text, "ray_conceptprune_units_left") == 0
    assert values(text, "ray_conceptprune_actors") == 0


def test_driver_and_workers_tell_what_the_store_takes(job: dict[str, Any]) -> None:
    # What other jobs' workers counted is as it was before.
    counts = [
        line
        for line in set(job["exported"].splitlines()) - set(job["before"].splitlines())
        if line.startswith("ray_conceptprune_store_seconds_count{")
    ]
    operations = {re.search(r'operation="(\w+)"', line)[1] for line in counts}  # type: ignore[index]
    assert {"read", "write", "list"} <= operations <= {"read", "write", "list", "look", "remove"}
    workers = {re.search(r'WorkerId="(\w+)"', line)[1] for line in counts}  # type: ignore[index]
    assert len(workers) > 1


def test_one_actor_makes_the_same_bytes_as_this_process(
    job: dict[str, Any], here: Any, tiny_folder: Path, tmp_path: Path
) -> None:
    alone = write_manifest(tmp_path / "manifest.yaml", tiny_folder, GOOD)
    found = masks(job["store"])
    assert len(found) == 1
    assert found == here(alone)


def test_no_tag_holds_a_concept(job: dict[str, Any]) -> None:
    ours = [line for line in job["exported"].splitlines() if "conceptprune_" in line]
    assert ours
    assert not [line for line in ours if CONCEPT in line or NOTHING in line]


def test_the_drivers_log_is_one_object_a_line_with_the_runs_id(job: dict[str, Any]) -> None:
    lines = [json.loads(line) for line in job["lines"] if "conceptprune" in line]
    assert lines
    run = job["rows"][0]["run"]
    assert all({"time", "level", "message"} <= set(line) for line in lines)
    assert {line["run"] for line in lines} == {run}
    assert any("concepts" in line["message"] for line in lines)


def test_the_workers_logs_name_each_unit(job: dict[str, Any]) -> None:
    lines = [
        json.loads(line)
        for path in (job["session"] / "logs").glob("worker-*.err")
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith('{"time"')
    ]
    told = {(line["kind"], line["key"]): line for line in lines}
    for row in job["rows"]:
        if row["status"] in ("done", "failed"):
            line = told[row["kind"], row["key"]]
            assert line["run"] == row["run"]
            assert line["message"].startswith(row["status"])
    assert CONCEPT not in "".join(line["message"] for line in lines)
