"""Whatever lies in place of a run's records is told in one line, and hides no other run.

Each case is one wrong field or file. `status` tells which file is damaged and shows the other run;
`gc` removes nothing; whoever reads the run gets a `StoreError` that names the file.
"""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from rich.console import Console

from conceptprune.errors import StoreError
from conceptprune.store import Commit, Store, table_to_parquet
from pipelines.commands.export import export_concepts
from pipelines.commands.status import show_status
from pipelines.commands.status_json import status_document
from pipelines.records.evaluation import EvaluationRecord
from pipelines.records.journal import JobRecord
from pipelines.records.ledger import LEDGER_FILE, SCHEMA, empty_row, made_by, open_ledger
from pipelines.records.run_files import first_started
from pipelines.records.runs import find_run
from pipelines.report import write_report
from tests.pipelines.commands.test_gc import collect, orphan, paths
from tests.pipelines.conftest import CONCEPTS, TinyStore, copied, record_run
from tests.support.other_versions import edit_json, ledger_of

OTHER = "other"
DEEP = b"[" * 100_000
NAN, INF, HUGE = float("nan"), float("inf"), 10**400

NO_TIMES: tuple[Any, ...] = (NAN, INF, -1, 1e200, 253_402_300_800, HUGE, True, "soon", None, [1])
NO_COUNTS: tuple[Any, ...] = (NAN, -1, 2**63, HUGE, 0.5, True, "many", [1])


@pytest.fixture
def store(tiny_store: TinyStore, tmp_path: Path) -> Store:
    """A finished run, another one that has just begun, and something that no run refers to."""
    store = copied(tiny_store, tmp_path / "store")
    record_run(store, tiny_store.prepared, replace(tiny_store.plan, run=OTHER))
    orphan(store)
    return store


def brief(value: object) -> str:
    return str(value)[:20]


def shown(store: Store) -> str:
    sink = StringIO()
    show_status(store.uri, Console(file=sink, width=80))
    return sink.getvalue()


def is_told(store: Store, tiny_store: TinyStore, name: str) -> None:
    text = shown(store)
    assert f"runs/run={OTHER}/{name} is damaged" in text
    assert f"run {tiny_store.plan.run}\n" in text
    document = status_document(store.uri)
    # What programs read is JSON by the letter, which knows no NaN.
    json.dumps(document, allow_nan=False)
    runs = {run["run"]: run for run in document["runs"]}
    assert f"{name} is damaged" in runs[OTHER]["error"]
    assert "error" not in runs[tiny_store.plan.run]


def gc_removes_nothing(store: Store) -> None:
    before = paths(store)
    with pytest.raises(StoreError, match=OTHER):
        collect(store, yes=True)
    assert paths(store) == before


FILES = [DEEP, b"", b"[]", b"null", b"7", b"\xff\xfe", b'{"a":' * 50_000, b'{"format": NaN}']


@pytest.mark.parametrize("name", ["run.json", "evaluation.json", "jobs/x.json", "concepts.json"])
@pytest.mark.parametrize("data", FILES, ids=range(len(FILES)))
def test_a_file_that_is_no_record_is_told_and_hides_no_other_run(
    store: Store, tiny_store: TinyStore, name: str, data: bytes
) -> None:
    store.write_run_file(OTHER, name, data)
    is_told(store, tiny_store, name)


@pytest.mark.parametrize("data", FILES, ids=range(len(FILES)))
def test_the_newest_run_is_that_of_the_readable_ones_and_the_damaged_one_is_named(
    store: Store,
    tiny_store: TinyStore,
    tmp_path: Path,
    data: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert find_run(store, None).run == OTHER
    store.write_run_file(OTHER, "run.json", data)
    assert find_run(store, None).run == tiny_store.plan.run
    told = f"going on with the other runs: {store.uri}: runs/run={OTHER}/run.json is damaged"
    assert [message.startswith(told) for message in caplog.messages] == [True]
    write_report(store.uri, out=tmp_path / "page.html", run=None)
    write_report(store.uri, out=tmp_path / "site", run=None)
    export_concepts(
        store.uri, [CONCEPTS[0]], out=tmp_path / "out", form="mask", fuse=None, run=None, model=None
    )
    assert len(caplog.messages) == 4


def test_a_store_of_damaged_records_alone_is_one_error(tiny_store: TinyStore, store: Store) -> None:
    for run in (OTHER, tiny_store.plan.run):
        store.write_run_file(run, "run.json", b"[]")
    with pytest.raises(StoreError, match=r"run\.json is damaged"):
        find_run(store, None)


def test_a_site_leaves_out_the_cost_of_an_evaluation_whose_ledger_is_damaged(
    store: Store, tiny_store: TinyStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store.remove([f"runs/run={OTHER}/run.json"])
    store.write_run_file(OTHER, LEDGER_FILE, b"no table")
    write_report(store.uri, out=tmp_path / "site", run=None)
    (message,) = caplog.messages
    assert message.startswith("a cost is not shown: ")
    assert f"runs/run={OTHER}/{LEDGER_FILE} is damaged" in message


def _run_cases() -> list[tuple[str, Any]]:
    wrong = [("started", value) for value in NO_TIMES]
    wrong += [("denoiser_weights", value) for value in (*NO_COUNTS, None)]
    wrong += [
        ("model", 7),
        ("model", {"label": 3}),
        ("manifest", []),
        ("manifest", {"a": "\ud800"}),
    ]
    return wrong


@pytest.mark.parametrize(("field", "value"), _run_cases(), ids=brief)
def test_a_wrong_field_of_a_runs_record_is_told(
    store: Store, tiny_store: TinyStore, field: str, value: Any
) -> None:
    edit_json(store, OTHER, "run.json", lambda content: content.update({field: value}))
    is_told(store, tiny_store, "run.json")
    with pytest.raises(StoreError, match=r"run\.json is damaged"):
        find_run(store, OTHER)
    # The run that is asked for does not depend on it.
    assert find_run(store, tiny_store.plan.run).run == tiny_store.plan.run


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("started", value) for value in NO_TIMES),
        *(("seen", value) for value in NO_TIMES),
        *(("done", value) for value in (NAN, HUGE)),
        ("job", 7),
        ("worker", None),
    ],
    ids=brief,
)
def test_a_wrong_field_of_a_sign_of_life_is_told(
    store: Store, tiny_store: TinyStore, field: str, value: Any
) -> None:
    JobRecord(job="x", worker="w", started=1.0, seen=2.0).write(store, OTHER)
    edit_json(store, OTHER, "jobs/x.json", lambda content: content.update({field: value}))
    is_told(store, tiny_store, "jobs/x.json")


def test_a_rate_of_no_time_at_all_is_not_told(store: Store) -> None:
    record = JobRecord(job="x", worker="w", started=0.0, seen=5e-324, done=9, left=9)
    record.write(store, OTHER)
    assert "units left" in shown(store) or "no sign of life" in shown(store)
    assert record.units_per_second is None


@pytest.mark.parametrize(
    "concept",
    [
        *({"first": {"at": value, "mask": "m"}} for value in NO_TIMES),
        *({"before": [value, 4]} for value in NO_COUNTS),
        {"before": [1]},
        {"before": {"a": 1, "b": 2}},
        {"last": 7},
    ],
    ids=brief,
)
def test_a_wrong_field_of_what_became_of_a_concept_is_told(
    store: Store, tiny_store: TinyStore, concept: dict[str, Any]
) -> None:
    content = {"concepts": [{"name": "Ada", "has_mask": True, **concept}]}
    store.write_run_file(OTHER, "concepts.json", json.dumps(content).encode())
    is_told(store, tiny_store, "concepts.json")


@pytest.mark.parametrize("edit", [7, {}, ["objects/a"]], ids=brief)
def test_an_evaluation_whose_edit_is_no_path_is_told(
    store: Store, tiny_store: TinyStore, edit: Any
) -> None:
    EvaluationRecord(
        run=OTHER, suite={}, checkpoints=({"edit": edit},), summary="s", started=time.time()
    ).write(store)
    is_told(store, tiny_store, "evaluation.json")


def test_a_job_takes_no_first_start_from_a_damaged_record(store: Store) -> None:
    for data in (*FILES, b'{"started": 1e999}', b'{"first_started": -5, "started": "x"}'):
        store.write_run_file(OTHER, "run.json", data)
        assert first_started(store, OTHER, "run.json", 7.0) == 7.0


Row = dict[str, Any]


def write_rows(store: Store, rows: list[Row], schema: pa.Schema = SCHEMA) -> None:
    table = pa.Table.from_pylist(rows, schema=schema)
    store.write_run_file(OTHER, LEDGER_FILE, table_to_parquet(table))


def _beyond_all_dates(row: Row) -> Row:
    return {**row, "finished": pa.scalar(2**62, SCHEMA.field("finished").type)}


@pytest.mark.parametrize(
    "change",
    [
        _beyond_all_dates,
        lambda row: {**row, "seconds": NAN},
        lambda row: {**row, "seconds": INF},
        lambda row: {**row, "seconds": -1.0},
        lambda row: {**row, "seconds": 1e300},
        lambda row: {**row, "attempts": -1},
        lambda row: {**row, "bytes": -(2**60)},
        lambda row: {**row, "entries": -3},
        lambda row: {**row, "needs": [None]},
        lambda row: {**row, "concepts": [None]},
        lambda row: {**row, "objects": ["objects/a", None]},
    ],
)
def test_a_wrong_value_in_a_ledger_is_told_and_stops_gc(
    store: Store, tiny_store: TinyStore, tmp_path: Path, change: Callable[[Row], Row]
) -> None:
    row = {**empty_row(), "kind": "mask", "key": "k", "run": OTHER, "status": "done"}
    write_rows(store, [change(row)])
    is_told(store, tiny_store, LEDGER_FILE)
    gc_removes_nothing(store)
    for read in (open_ledger, lambda _, run: write_report(store.uri, out=tmp_path / "r", run=run)):
        with pytest.raises(StoreError, match=f"{OTHER}/{LEDGER_FILE} is damaged"):
            read(store, OTHER)


@pytest.mark.parametrize("value", [NAN, INF, -1, 1e300, HUGE, "x", [1], True, {}], ids=brief)
def test_what_a_record_cannot_say_of_how_a_unit_was_made_is_not_known(
    store: Store, value: Any
) -> None:
    names = ("seconds", "finished", "worker", "entries", "site_weights", "at_once")
    commit = Commit(kind="mask", key="k", objects={}, provenance=dict.fromkeys(names, value))
    made = made_by(commit)
    assert {name: made[name] for name in names if name != "worker"} == dict.fromkeys(
        [name for name in names if name != "worker"]
    )
    row = {**empty_row(), "kind": "mask", "key": "k", "run": OTHER, "status": "done", **made}
    write_rows(store, [row])
    assert ledger_of(store, OTHER).num_rows == 1
