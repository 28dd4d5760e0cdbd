"""The trail: jobs, exports and `gc` are in the store's chain of events, and `verify` walks it."""

import json
import time
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from conceptprune.digest import digest_file, digest_json
from conceptprune.errors import StoreError
from conceptprune.store import Store
from conceptprune.store.events import Event, check_events
from conceptprune.store.files import LocalFiles
from conceptprune.units.units import MaskUnit
from pipelines.cli import main
from pipelines.commands.export import export_concepts
from pipelines.commands.gc import collect_garbage
from pipelines.jobs.erase import erase
from pipelines.records.trail import job_began, job_ended
from tests.pipelines.conftest import CONCEPTS, TinyStore, copied
from tests.support.units_here import units_here

ADA = CONCEPTS[0]


@pytest.fixture
def store(tiny_store: TinyStore, tmp_path: Path) -> Store:
    """A finished run, of which nothing is on record yet."""
    store = copied(tiny_store, tmp_path / "store")
    store.remove([entry.path for entry in store.entries("events")])
    return store


def events(store: Store) -> list[Event]:
    chain = check_events(store)
    assert chain.problem is None
    return list(chain.events)


def export(store: Store, tiny_store: TinyStore, out: Path) -> Path:
    export_concepts(
        store.uri, [ADA], out=out, form="mask", fuse=None, run=None, model=tiny_store.model
    )
    return out


def exit_code(*arguments: object) -> object:
    with pytest.raises(SystemExit) as stop:
        main([str(each) for each in arguments])
    return stop.value.code


def mask_digest(tiny_store: TinyStore, concept: int) -> str:
    return tiny_store.commits[tiny_store.plan.concepts[concept].mask.key].objects["mask"].digest


def test_a_job_is_on_record_with_what_it_was_asked_for_and_the_masks_it_made(
    tiny_store: TinyStore, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = tiny_store.plan.concepts[0].mask
    store.remove([f"commits/{mask.kind}/{mask.key}.json"])
    monkeypatch.setattr("pipelines.jobs.erase.unit_runner", units_here(lambda _: False))
    assert erase(tiny_store.manifest, store.uri, Console(file=StringIO())) == 0
    began, ended = events(store)
    assert (began.what, ended.what) == ("job-began", "job-ended")
    run = json.loads(store.read_run_file(tiny_store.plan.run, "run.json") or b"")
    assert began.details["asked_sha256"] == digest_json(run["manifest"])
    assert (began.details["run"], began.details["command"]) == (tiny_store.plan.run, "erase")
    assert ended.details["job"] == began.details["job"]
    assert (ended.details["state"], ended.details["units"]["done"]) == ("done", 1)
    assert ended.details["masks"] == {ADA: mask_digest(tiny_store, 0)}
    assert "@" in began.who
    assert "combined" not in ended.details  # It was there already.


def test_a_combined_checkpoint_is_on_record_with_those_it_erases(
    tiny_store: TinyStore, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fused = tiny_store.plan.combined
    assert fused
    store.remove([f"commits/{fused.kind}/{fused.key}.json"])
    monkeypatch.setattr("pipelines.jobs.erase.unit_runner", units_here(lambda _: False))
    assert erase(tiny_store.manifest, store.uri, Console(file=StringIO())) == 0
    *_, ended = events(store)
    assert ended.details["masks"] == {}
    assert ended.details["combined"] == {
        "how": "fused",
        "concepts": list(fused.erased),
        "sha256": tiny_store.commits[fused.key].objects["mask"].digest,
    }


@pytest.mark.parametrize(
    ("error", "state"), [(None, "failed"), (KeyboardInterrupt, "stopped"), (SystemExit, "stopped")]
)
def test_a_job_that_fails_or_is_stopped_has_its_end_on_record(
    tiny_store: TinyStore,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    error: type[BaseException] | None,
    state: str,
) -> None:
    mask = tiny_store.plan.concepts[0].mask
    store.remove([f"commits/{mask.kind}/{mask.key}.json"])

    def fails(unit: object) -> bool:
        if error:
            raise error
        return isinstance(unit, MaskUnit)

    monkeypatch.setattr("pipelines.jobs.erase.unit_runner", units_here(fails))
    if error:
        with pytest.raises(error):
            erase(tiny_store.manifest, store.uri, Console(file=StringIO()))
    else:
        assert erase(tiny_store.manifest, store.uri, Console(file=StringIO())) == 1
    ended = events(store)[-1]
    assert (ended.what, ended.details["state"], ended.details["masks"]) == ("job-ended", state, {})


def test_an_export_is_on_record_with_its_masks_and_statement(
    tiny_store: TinyStore, store: Store, tmp_path: Path
) -> None:
    out = export(store, tiny_store, tmp_path / "out")
    (event,) = events(store)
    assert event.what == "exported"
    assert event.details == {
        "run": tiny_store.plan.run,
        "form": "mask",
        "masks": {ADA: mask_digest(tiny_store, 0)},
        "statements": [digest_file(out / "provenance.json")],
    }


def test_an_export_from_a_store_that_cannot_be_written_says_that_it_is_not_on_record(
    tiny_store: TinyStore,
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refused(*_: object, **__: object) -> bool:
        raise StoreError("read only")

    monkeypatch.setattr(LocalFiles, "create", refused)
    assert (export(store, tiny_store, tmp_path / "out") / "provenance.json").is_file()
    assert "not on record in the store: read only" in capsys.readouterr().err


def test_gc_keeps_the_events_and_puts_what_it_removes_on_record_before_it_does(
    tiny_store: TinyStore, store: Store, tmp_path: Path
) -> None:
    export(store, tiny_store, tmp_path / "out")
    console = Console(file=StringIO())
    later = time.time() + 30 * 24 * 3600
    collect_garbage(store.uri, console, yes=True, now=later)
    assert [event.what for event in events(store)] == ["exported"]
    collect_garbage(store.uri, console, yes=True, now=later, forget=[tiny_store.plan.run])
    _, event = events(store)
    assert (event.what, event.details["forgotten"]) == ("removing", [tiny_store.plan.run])
    assert mask_digest(tiny_store, 0) in event.details["masks"]
    assert event.details["files"] > 10
    assert list(store.entries("objects")) == []


def test_verify_walks_the_chain_and_names_the_first_break(
    tiny_store: TinyStore, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b", "c"):
        export(store, tiny_store, tmp_path / name)
    capsys.readouterr()
    assert exit_code("verify", "--store", store.uri) == 0
    said = capsys.readouterr().out
    last = check_events(store).digests[-1]
    assert f"chain of 3 events whole, the last is {last}" in said
    first = Path(store.uri, "events", "0000000001.json")
    first.write_bytes(first.read_bytes().replace(b"exported", b"imported"))
    assert exit_code("verify", tmp_path / "a", "--store", store.uri) == 1
    said = capsys.readouterr().out
    assert "as stated" in said
    assert "event 1 was changed" in said
    assert exit_code("verify", "--store", store.uri, "--json") == 1
    assert json.loads(capsys.readouterr().out)["chain"]["good"] is False


def test_a_chain_that_was_cut_off_lacks_the_event_that_was_kept_elsewhere(
    tiny_store: TinyStore, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        export(store, tiny_store, tmp_path / name)
    kept = check_events(store).digests[-1]
    assert exit_code("verify", "--store", store.uri, "--event", kept) == 0
    Path(store.uri, "events", "0000000002.json").unlink()
    assert exit_code("verify", "--store", store.uri) == 0
    assert exit_code("verify", "--store", store.uri, "--event", kept) == 1
    assert f"no event has the SHA-256 {kept}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "give a folder that export wrote, --store, or both"),
        (["--event", "0" * 64], "--event: needs --store"),
        (["--store", "nowhere", "--event", "abc"], "--event abc: is no SHA-256"),
    ],
)
def test_verify_of_nothing_is_bad_input(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("verify", *arguments) == 2
    assert told in capsys.readouterr().err


def test_a_job_whose_events_cannot_be_put_on_record_goes_on_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(LocalFiles, "create", lambda *_, **__: False)
    store = Store(str(tmp_path))
    job_began(store, run="r", job="j", command="erase", asked={})
    job_ended(store, run="r", job="j", state="done", rows=[])
    began, ended = caplog.messages
    assert began.startswith("the event job-began is not on record in the store: ")
    assert ended.startswith("the event job-ended is not on record in the store: ")
