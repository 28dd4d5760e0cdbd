"""`status` tells what became of each run, and needs no Ray for it."""

import os
import re
import time
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from conceptprune.errors import UserError
from conceptprune.store import Store
from conceptprune.store.claims import Claims
from conceptprune.units.prompts_units import prompts_units
from conceptprune.units.unit import Unit
from conceptprune.units.units import MaskUnit
from pipelines.commands.status import show_status
from pipelines.commands.status_json import status_document
from pipelines.records.concepts import ConceptState, ConceptStates, Made
from pipelines.records.journal import JobRecord
from pipelines.scheduling.loop import Result
from tests.pipelines.conftest import CONCEPTS, TinyStore, copied, done, record_run, worker_of


def status(uri: str) -> str:
    sink = StringIO()
    show_status(uri, Console(file=sink, width=80))
    return sink.getvalue()


@pytest.fixture
def failed_store(tiny_store: TinyStore, tmp_path: Path) -> Store:
    """A run whose first concept has a poison mask; the second one's is pending."""
    store = copied(tiny_store, tmp_path / "store", "objects")
    plan = tiny_store.plan
    first, second, _ = plan.concepts
    names = plan.labels
    results = []
    for unit in plan.units():
        if unit.key == first.mask.key:
            error = "ValueError: [bold]two\nlines\x1b[31m"
            results.append(Result(unit=unit, status="failed", attempts=3, error=error))
        elif ("mask", first.mask.key) in unit.needs:
            results.append(Result(unit=unit, status="blocked", attempts=0, error="needs it"))
        elif unit.key == second.mask.key or names.get(unit.key) == (CONCEPTS[1],):
            continue
        else:
            store.commit(tiny_store.commits[unit.key])
            results.append(done(unit, tiny_store.commits[unit.key]))
    record_run(store, tiny_store.prepared, plan, results, started=1.7e9)
    return store


def open_units(tiny_store: TinyStore) -> list[Unit]:
    """Units that `failed_store` has no result of."""
    first = tiny_store.plan.concepts[0].mask
    names = tiny_store.plan.labels
    return [
        unit
        for unit in tiny_store.plan.units()
        if unit.key == first.key
        or ("mask", first.key) in unit.needs
        or names.get(unit.key) == (CONCEPTS[1],)
    ]


def test_a_finished_run_leaves_nothing_to_a_rerun(tiny_store: TinyStore) -> None:
    shown = status(tiny_store.uri)
    units = len(list(tiny_store.plan.units()))
    assert f"run {tiny_store.plan.run}" in shown
    assert f"model     tiny, digest {tiny_store.prepared.model.identity[:12]}" in shown
    assert "concepts  3 of 3 done" in shown
    assert f"{units} done, 0 reused, 0 failed, 0 blocked, 0 pending" in shown
    assert "a rerun would compute nothing" in shown


def test_a_failure_is_shown_with_its_unit_attempts_and_error(
    failed_store: Store, tiny_store: TinyStore
) -> None:
    shown = status(failed_store.uri)
    mask = tiny_store.plan.concepts[0].mask
    # On one line, as text: no markup is obeyed and no control character comes through.
    assert (
        f"failed    mask {mask.key[:12]} (Ada Bell) after 3 attempts: "
        "ValueError: [bold]two lines [31m\n"
    ) in shown
    assert "started   2023-11-14 22:13:20 UTC" in shown


def test_concepts_and_units_without_a_result_are_counted(
    failed_store: Store, tiny_store: TinyStore
) -> None:
    shown = status(failed_store.uri)
    left = open_units(tiny_store)
    num_blocked = sum(("mask", tiny_store.plan.concepts[0].mask.key) in unit.needs for unit in left)
    num_pending = len(left) - num_blocked - 1
    # The fused mask needs the first concept's: it is blocked, and is no concept's own.
    assert num_blocked == 4
    assert "concepts  1 of 3 done" in shown
    assert f"1 failed, {num_blocked} blocked, {num_pending} pending" in shown
    assert re.search(r"blocked   \d checkpoint units? \(Ada Bell\): needs it", shown)
    assert f"a rerun would compute {len(left)} units" in shown


def test_work_that_was_committed_after_the_ledger_is_not_counted_as_left(
    failed_store: Store, tiny_store: TinyStore
) -> None:
    left = open_units(tiny_store)
    committed = next(unit for unit in left if isinstance(unit, MaskUnit))
    failed_store.commit(tiny_store.commits[committed.key])
    shown = status(failed_store.uri)
    assert f"a rerun would compute {len(left) - 1} units" in shown
    assert "failed    " not in shown


def test_a_concept_is_done_when_nothing_of_it_is_open(
    tiny_store: TinyStore, tmp_path: Path
) -> None:
    store = copied(tiny_store, tmp_path / "store", "objects")
    plan = tiny_store.plan
    results = [
        done(unit, tiny_store.commits[unit.key])
        for unit in plan.units()
        if plan.labels.get(unit.key, ()) != (CONCEPTS[1],)
    ]
    for result in results:
        store.commit(tiny_store.commits[result.unit.key])
    record_run(store, tiny_store.prepared, plan, results)
    assert "concepts  2 of 3 done" in status(store.uri)


def test_a_result_that_was_lost_after_the_ledger_is_left_to_a_rerun(
    failed_store: Store, tiny_store: TinyStore
) -> None:
    left = open_units(tiny_store)
    mask = tiny_store.plan.concepts[2].mask.key
    windows = failed_store.committed("window")
    failed_store.remove([f"commits/mask/{mask}.json"])
    # No result, so not missed: a rerun makes them when it needs them.
    failed_store.remove([f"commits/window/{key}.json" for key in windows])
    shown = status(failed_store.uri)
    assert "concepts  0 of 3 done" in shown
    assert f"a rerun would compute {len(left) + 1} units" in shown


def test_a_run_without_a_ledger_is_shown(tiny_store: TinyStore, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    record_run(store, tiny_store.prepared, tiny_store.plan, with_ledger=False)
    shown = status(store.uri)
    assert "concepts  0 of 3 done" in shown
    assert "none on record" in shown


def test_a_store_without_runs_is_an_error(tiny_store: TinyStore, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run is recorded here"):
        status(str(tmp_path / "nowhere"))
    store = Store(str(tmp_path / "prompts_only"))
    worker_of(tiny_store.prepared, store).run(prompts_units(tiny_store.prepared.manifest)[0])
    with pytest.raises(UserError, match="no run is recorded here"):
        status(store.uri)


def job(tiny_store: TinyStore, store: Store, **changes: object) -> None:
    """Record a job of the run."""
    now = time.time()
    record = JobRecord(job="20260102T030405-ab12cd", worker="host/17", started=now, seen=now)
    replace(record, **changes).write(store, tiny_store.plan.run)


def test_a_running_job_is_shown_with_its_sign_of_life_and_what_its_workers_are_at(
    failed_store: Store, tiny_store: TinyStore
) -> None:
    job(tiny_store, failed_store, left=7, in_flight=3, actors=2, seen=time.time() - 9)
    claims = Claims(failed_store, job="20260102T030405-ab12cd", worker="gpu-node/99")
    with claims.held("window", "0123456789abcdef"):
        shown = status(failed_store.uri)
    assert re.search(
        r"job +20260102T030405-ab12cd, host/17: running, sign of life \d+ s ago; 7 units left, "
        r"3 in flight, 2 actors",
        shown,
    )
    assert re.search(r"computing window 0123456789ab, gpu-node/99, for \d+ s", shown)


def test_every_claim_is_shown_whoevers_it_is_and_whether_it_binds(failed_store: Store) -> None:
    claims = Claims(failed_store, job="of-no-run", worker="elsewhere/7")
    with claims.held("window", "0123456789abcdef"):
        shown = status(failed_store.uri)
        (claim,) = status_document(failed_store.uri)["claims"]
        path = Path(failed_store.uri, "claims", "window", "0123456789abcdef.json")
        os.utime(path, (1e9, 1e9))
        lapsed = status(failed_store.uri)
        (late,) = status_document(failed_store.uri)["claims"]
    assert re.search(
        r"claim on window 0123456789ab: job of-no-run, elsewhere/7, renewed \d+ s ago$", shown, re.M
    )
    assert re.search(r"renewed \d+ s ago, so that it binds nobody$", lapsed, re.M)
    assert (claim["job"], claim["worker"], claim["live"]) == ("of-no-run", "elsewhere/7", True)
    assert late["live"] is False


def test_a_running_job_says_how_fast_it_is_and_how_long_it_will_take(
    failed_store: Store, tiny_store: TinyStore
) -> None:
    now = time.time()
    job(tiny_store, failed_store, left=700, done=100, started=now - 600, seen=now)
    assert "; 10.0 units a minute, about 1 h 10 min left\n" in status(failed_store.uri)
    (shown,) = status_document(failed_store.uri)["runs"][0]["jobs"]
    assert shown["seconds_left"] == pytest.approx(4200)
    assert shown["units_per_second"] == pytest.approx(1 / 6)


def test_a_job_that_has_done_nothing_yet_foretells_nothing(
    failed_store: Store, tiny_store: TinyStore
) -> None:
    job(tiny_store, failed_store, left=700)
    assert "a minute" not in status(failed_store.uri)


def test_what_became_of_the_concepts_is_on_record_and_shown(
    tiny_store: TinyStore, tmp_path: Path
) -> None:
    store = copied(tiny_store, tmp_path / "store")
    run_id = tiny_store.plan.run
    first = Made(at=1.7e9, run=run_id, job="a", mask="m")
    states = ConceptStates(
        (
            ConceptState(
                name="Ada Bell", has_mask=True, before=(3, 4), after=(0, 4), first=first, last=first
            ),
            ConceptState(name="Cy Dow", has_mask=True, before=(0, 4), after=(0, 4)),
            ConceptState(name="Eve", has_mask=True),
        )
    )
    states.write(store, tiny_store.plan.run)
    shown = status(store.uri)
    assert "concepts  3 of 3 done\n" in shown
    assert "effect    3 of 3 have a mask; effect checked for 2, not for 1\n" in shown
    assert "effect    was never there: Cy Dow (" in shown
    assert "erased    the first 2023-11-14 22:13:20 UTC" in shown
    (run,) = status_document(store.uri)["runs"]
    effect = run["concepts"]["effect"]
    assert (effect["masks"], effect["checked"], effect["not_checked"]) == (3, 2, 1)
    assert effect["never_there"] == ["Cy Dow"]
    assert effect["each"][0]["first"] == {"at": 1.7e9, "run": run_id, "job": "a", "mask": "m"}
    assert ConceptStates.read(store, tiny_store.plan.run) == states


@pytest.mark.parametrize(
    "content",
    [
        b"[]",
        b'{"concepts": 3}',
        b'{"concepts": [1]}',
        b'{"concepts": [{"name": 1}]}',
        b'{"concepts": [{"name": "a", "before": 3}]}',
        b'{"concepts": [{"name": "a", "first": {"at": "x", "mask": "m"}}]}',
    ],
)
def test_damaged_states_of_concepts_are_told(
    tiny_store: TinyStore, tmp_path: Path, content: bytes
) -> None:
    store = copied(tiny_store, tmp_path / "store")
    store.write_run_file(tiny_store.plan.run, "concepts.json", content)
    assert "concepts.json is damaged" in status(store.uri)


def test_a_job_that_died_without_a_word_is_told_from_one_that_runs(
    failed_store: Store, tiny_store: TinyStore
) -> None:
    job(tiny_store, failed_store, seen=time.time() - 3600)
    shown = status(failed_store.uri)
    assert re.search(r"host/17: no sign of life, last 36\d\d s ago$", shown, re.M)


@pytest.mark.parametrize("state", ["done", "failed", "stopped"])
def test_of_jobs_that_ended_the_last_is_shown(
    failed_store: Store, tiny_store: TinyStore, state: str
) -> None:
    job(tiny_store, failed_store, job="20260101T000000-000000", state="done")
    job(tiny_store, failed_store, state=state)
    shown = status(failed_store.uri)
    assert re.search(rf"host/17: {state} \d+ s ago$", shown, re.M)
    assert "20260101T000000-000000" not in shown


def test_a_damaged_ledger_is_told_and_hides_no_other_run(
    failed_store: Store, tiny_store: TinyStore
) -> None:
    record_run(failed_store, tiny_store.prepared, replace(tiny_store.plan, run="other"))
    failed_store.write_run_file("other", "ledger.parquet", b"PAR1 no more")
    shown = status(failed_store.uri)
    assert "runs/run=other/ledger.parquet is damaged" in shown
    assert f"run {tiny_store.plan.run}\n" in shown


@pytest.mark.parametrize("name", ["run.json", "evaluation.json"])
def test_a_damaged_record_is_told_by_its_name_and_hides_no_other_run(
    failed_store: Store, tiny_store: TinyStore, name: str
) -> None:
    failed_store.write_run_file("other", name, b'{"run": "oth')
    shown = status(failed_store.uri)
    assert f"runs/run=other/{name} is damaged" in shown
    assert f"run {tiny_store.plan.run}\n" in shown
    runs = {each["run"]: each for each in status_document(failed_store.uri)["runs"]}
    assert f"{name} is damaged" in runs["other"]["error"]
    assert runs[tiny_store.plan.run]["units"]


def test_a_damaged_sign_of_life_is_told(failed_store: Store, tiny_store: TinyStore) -> None:
    failed_store.write_run_file(tiny_store.plan.run, "jobs/x.json", b"\xff")
    assert f"run={tiny_store.plan.run}/jobs/x.json is damaged" in status(failed_store.uri)
