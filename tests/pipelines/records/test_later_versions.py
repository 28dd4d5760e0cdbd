"""What a later version recorded is listed, reported as far as it is known, and never removed."""

import html
import json
from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from rich.console import Console

import conceptprune
from conceptprune.digest import canonical_json, digest_json
from conceptprune.errors import StoreError, UserError
from conceptprune.manifest import Manifest
from conceptprune.store import Commit, Store, parquet_to_table, table_to_parquet
from conceptprune.store.records import FORMAT
from pipelines.commands.export import export_concepts
from pipelines.commands.status import show_status
from pipelines.records.ledger import read_ledger
from pipelines.records.run_record import RunRecord
from pipelines.records.runs import mask_keys
from pipelines.report import write_report
from pipelines.report.data import read_report
from tests.pipelines.commands.test_gc import collect, orphan, paths, paths_of
from tests.pipelines.conftest import CONCEPTS, TinyStore, copied
from tests.support.other_versions import Rows, edit_json, edit_ledger

ADA, CY, LAST = CONCEPTS


@pytest.fixture
def store(tiny_store: TinyStore, tmp_path: Path) -> Store:
    return copied(tiny_store, tmp_path / "store")


@pytest.fixture
def run(tiny_store: TinyStore) -> str:
    return tiny_store.plan.run


def status(store: Store) -> str:
    sink = StringIO()
    show_status(store.uri, Console(file=sink, width=80))
    return sink.getvalue()


def page(store: Store, folder: Path) -> str:
    write_report(store.uri, out=folder / "page.html", run=None)
    return (folder / "page.html").read_text()


def not_shown(text: str) -> str:
    """The one line of a page that says what it passes over."""
    (line,) = [line for line in text.splitlines() if "Not shown, as another version" in line]
    return html.unescape(line)


def with_field(content: dict[str, Any]) -> None:
    """A manifest as one with new fields would be recorded."""
    content["manifest"]["collection"]["colour"] = "blue"
    content["manifest"]["taste"] = {"sweet": [1]}


def test_a_manifest_field_that_is_not_known_stops_no_reader(
    store: Store, run: str, tmp_path: Path
) -> None:
    edit_json(store, run, "run.json", with_field)
    before = paths(store)
    orphan(store)
    assert "removed: 2 files" in collect(store, yes=True)
    assert paths(store) == before
    assert "not shown the manifest's fields collection.colour, taste" in status(store)
    text = page(store, tmp_path)
    assert "the manifest's fields collection.colour, taste." in not_shown(text)
    assert all(name in text for name in (ADA, CY))
    export_concepts(
        store.uri, [ADA], out=tmp_path / "out", form="mask", fuse=None, run=None, model=None
    )
    assert list((tmp_path / "out").glob("*.safetensors"))


def test_no_reader_makes_a_manifest_or_a_plan_of_what_is_recorded(
    store: Store, tiny_store: TinyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a reader goes by the ledger")

    monkeypatch.setattr(Manifest, "__init__", refuse)
    monkeypatch.setattr(Manifest, "model_validate", refuse)
    monkeypatch.setattr("conceptprune.units.plan.build_plan", refuse)
    monkeypatch.setattr("conceptprune.units.prompts_units.prompts_units", refuse)
    assert "3 of 3 done" in status(store)
    assert "could be removed: 0 files" in collect(store)
    assert "Not shown" not in page(store, tmp_path)
    export_concepts(
        store.uri,
        [ADA, CY],
        out=tmp_path / "out",
        form="mask",
        fuse="budget",
        fraction=0.005,
        run=None,
        model=tiny_store.model,
    )
    (file,) = (tmp_path / "out").glob("*.safetensors")
    assert conceptprune.load_mask(file).concepts == (ADA, CY)


def with_hologram(store: Store, run: str) -> Commit:
    """A unit of a kind that is not known here, in the run's ledger."""
    ref = store.put(b"light", kind="hologram", model="m" * 12, suffix="holo")
    commit = Commit(kind="hologram", key="h" * 64, objects={"light": ref}, provenance={})
    store.commit(commit)

    def add(rows: Rows) -> Rows:
        mine = {"kind": "hologram", "key": commit.key, "unit": len(rows), "mask": None}
        return [*rows, {**rows[-1], **mine, "detail": "", "objects": [ref.path]}]

    edit_ledger(store, run, rows=add, columns={"colour": "blue"})
    return commit


def test_units_of_an_unknown_kind_and_unknown_columns_are_listed_reported_and_kept(
    store: Store, run: str, tmp_path: Path
) -> None:
    kept = paths_of(with_hologram(store, run))
    garbage = paths_of(orphan(store))
    collect(store, yes=True)
    assert kept <= paths(store)
    assert not garbage & paths(store)
    assert f"{len(read_ledger(store, run))} done" in status(store)
    line = not_shown(page(store, tmp_path))
    assert "the ledger's column colour" in line
    assert "what units of the kinds hologram made" in line


def test_of_a_later_ledger_all_results_are_kept_and_it_is_said(
    store: Store, run: str, tmp_path: Path
) -> None:
    edit_ledger(store, run, columns={"colour": "blue"}, without=("worker",), number=9)
    orphan(store)
    store.create_claim("window/k.json", b"{}")
    before = paths(store)
    shown = collect(store, yes=True)
    assert before - paths(store) == {"claims/window/k.json"}
    assert (
        f"note: run {run} was recorded by a later version of conceptprune (its ledger is of the "
        "format ledger/9), so what it refers to is not known: no result is removed"
    ) in shown
    assert "concepts  3 of 3 done" in status(store)
    assert "what its ledger says in the later format ledger/9" in status(store)
    assert "ledger/9" in not_shown(page(store, tmp_path))
    collect(store, yes=True, forget=[run])
    assert paths(store) == set()


def test_a_later_ledger_with_other_names_of_units_hides_no_other_run_and_loses_nothing(
    store: Store, run: str, tmp_path: Path
) -> None:
    edit_ledger(store, run, without=("key",), number=9)
    orphan(store)
    before = paths(store)
    assert "ledger.parquet cannot be read" in collect(store, yes=True)
    assert paths(store) == before
    assert f"runs/run={run}/ledger.parquet is of the format ledger/9" in status(store)
    with pytest.raises(StoreError, match="ledger/9, and this version of conceptprune cannot read"):
        page(store, tmp_path)


def test_a_run_of_an_unknown_kind_is_listed_and_what_it_refers_to_stays(
    store: Store, run: str
) -> None:
    for name in ("ledger.parquet", "run.json"):
        data = store.read_run_file(run, name)
        assert data
        store.write_run_file("trained", "training.json" if name == "run.json" else name, data)
    store.remove([f"runs/run={run}/run.json", f"runs/run={run}/ledger.parquet"])
    applied = store.put(b"a mask of elsewhere", kind="mask", model="m", suffix="safetensors")

    def applying(rows: Rows) -> Rows:
        return [{**rows[0], "applies": [applied.path]}, *rows[1:]]

    edit_ledger(store, "trained", rows=applying)
    before = paths(store)
    orphan(store)
    collect(store, yes=True)
    assert paths(store) == before
    shown = status(store)
    assert "run trained\n" in shown
    assert "not shown what kind of run it is" in shown
    assert "a rerun would compute nothing" in shown


@pytest.mark.parametrize("record", ["a later record", "an unknown file"])
def test_without_a_ledger_known_here_nothing_is_removed(
    store: Store, run: str, record: str
) -> None:
    if record == "a later record":
        data = store.read_run_file(run, "run.json")
        assert data
        store.write_run_file("new", "run.json", data)
        edit_json(store, "new", "run.json", lambda c: c.update(format="conceptprune.run/9"))
    else:
        store.write_run_file("new", "ledger.arrow", b"?")
    garbage = paths_of(orphan(store))
    assert "run new was recorded by a later version" in collect(store, yes=True)
    assert garbage <= paths(store)
    collect(store, yes=True, forget=["new"])
    assert not garbage & paths(store)


def test_a_later_record_is_shown_as_far_as_it_is_known(
    store: Store, run: str, tmp_path: Path
) -> None:
    def later(content: dict[str, Any]) -> None:
        content |= {"format": "conceptprune.run/9", "model": "studio", "started": "today"}
        del content["denoiser_weights"]

    edit_json(store, run, "run.json", later)
    shown = status(store)
    assert "concepts  3 of 3 done" in shown
    assert "model     not known" in shown
    assert "what its record says in a later format" in shown
    assert "what its record says in a later format" in not_shown(page(store, tmp_path))


def test_a_later_record_of_an_evaluation_and_of_a_job_are_shown(store: Store, run: str) -> None:
    record = {"format": "conceptprune.evaluation-run/9", "suite": {"name": "small"}, "judge": 3}
    store.write_run_file("judged", "evaluation.json", json.dumps(record).encode())
    job = {"job": "j", "worker": "w", "started": 1.0, "seen": 2.0, "state": "paused", "queue": "q"}
    store.write_run_file(run, "jobs/j.json", json.dumps(job).encode())
    shown = status(store)
    assert "evaluation judged\n  suite     small" in shown
    assert "job j, w: paused" in shown


def raise_commit(store: Store, kind: str, key: str) -> None:
    """A unit's record in a later format."""
    path = Path(store.uri) / "commits" / kind / f"{key}.json"
    content = json.loads(path.read_text())
    del content["sha256"]
    content["format"] = FORMAT.replace("/3", "/9")
    path.unlink()  # It shares its bytes with the original by a hard link.
    path.write_text(canonical_json({**content, "sha256": digest_json(content)}))


def test_objects_are_kept_where_a_record_does_not_say_which_are_its_own(
    store: Store, tiny_store: TinyStore, tmp_path: Path
) -> None:
    key = tiny_store.plan.concepts[0].mask.key
    raise_commit(store, "mask", key)
    commit = orphan(store)
    before = paths(store)
    shown = collect(store, yes=True)
    # The orphan's record goes: no run refers to it, whatever the other one does.
    assert before - paths(store) == {f"commits/mask/{commit.key}.json"}
    assert f"note: the record of mask {key[:12]} is of another version" in shown
    assert "results with a record of another format" in not_shown(page(store, tmp_path))


def test_files_that_no_known_version_names_so_are_kept(store: Store) -> None:
    for name in ("commits/mask/ab/cd.json", "objects/mask/ab/cd"):
        path = Path(store.uri) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"?")
    before = paths(store)
    assert "note: commits/mask/ab/cd.json and all else that is named as" in collect(store, yes=True)
    assert paths(store) == before


def replace_table(store: Store, kind: str, key: str, change: Any) -> None:
    """A unit's table as a later version would have written it, with its record."""
    commit = store.get(kind, key)
    ((role, ref),) = commit.objects.items()
    data = table_to_parquet(change(parquet_to_table(store.read(ref))))
    new = store.put(data, kind=kind, model="m" * 12, suffix="parquet")
    store.remove([f"commits/{kind}/{key}.json"])
    store.commit(Commit(kind=kind, key=key, objects={role: new}, provenance=commit.provenance))


def test_tables_of_other_formats_are_passed_over_and_named(
    store: Store, tiny_store: TinyStore, tmp_path: Path
) -> None:
    concept = tiny_store.plan.concepts[0]

    def other(table: pa.Table, **renamed: str) -> pa.Table:
        metadata = table.schema.metadata
        number = metadata[b"conceptprune.format"].partition(b"/")[0] + b"/9"
        table = table.rename_columns([renamed.get(name, name) for name in table.column_names])
        return table.replace_schema_metadata({**metadata, b"conceptprune.format": number})

    replace_table(store, "statistics", concept.target.key, other)
    assert concept.preview_after
    after = concept.preview_after.key
    replace_table(store, "preview", after, lambda table: other(table, png="jpeg"))
    report = read_report(store.uri, None)
    assert [name for name in report.not_shown if "statistics/9" in name]
    assert "images in a table of another format" in report.not_shown
    shown = report.concepts[0]
    assert shown.where
    assert shown.where.timesteps == ()
    assert all(column.after is None for column in shown.strips[0].columns)
    assert report.concepts[1].where
    assert report.concepts[1].strips


def test_a_mask_of_another_format_is_named_and_its_numbers_stand(
    store: Store, tiny_store: TinyStore
) -> None:
    key = tiny_store.plan.concepts[0].mask.key
    commit = store.get("mask", key)
    data = store.load(commit, "mask").replace(b"conceptprune.mask/1", b"conceptprune.mask/9")
    ref = store.put(data, kind="mask", model="m" * 12, suffix="safetensors")
    store.remove([f"commits/mask/{key}.json"])
    objects = {**commit.objects, "mask": ref}
    store.commit(Commit(kind="mask", key=key, objects=objects, provenance=commit.provenance))
    report = read_report(store.uri, None)
    assert [name for name in report.not_shown if "where masks prune" in name]
    assert report.concepts[0].where is None
    assert report.concepts[0].mask
    assert report.concepts[0].mask.entries == commit.provenance["entries"]
    assert report.concepts[1].where


def test_a_run_that_names_no_concept_known_here_is_one_line(
    store: Store, run: str, tmp_path: Path
) -> None:
    edit_json(store, run, "run.json", lambda content: content.update(manifest={"erase": ["x"]}))
    edit_ledger(store, run, rows=lambda rows: [row for row in rows if row["kind"] == "window"])
    with pytest.raises(UserError, match=r"names no concept .*the manifest's field erase") as error:
        page(store, tmp_path)
    assert "\n" not in str(error.value)


def test_masks_are_paired_with_concepts_by_name_whatever_the_order_of_the_ledger(
    store: Store, tiny_store: TinyStore, run: str
) -> None:
    record = RunRecord.read(store, run)
    before = read_report(store.uri, None)

    def reversed_(rows: Rows) -> Rows:
        return [{**row, "unit": unit} for unit, row in enumerate(reversed(rows))]

    edit_ledger(store, run, rows=reversed_)
    after = read_report(store.uri, None)
    digests = {concept.name: concept.mask and concept.mask.digest for concept in before.concepts}
    assert {c.name: c.mask and c.mask.digest for c in after.concepts} == digests
    assert after.combined
    assert before.combined
    assert after.combined.facts == before.combined.facts
    keys = mask_keys(store, record, list(CONCEPTS))
    assert keys == {plan.concept.name: plan.mask.key for plan in tiny_store.plan.concepts}


def test_when_a_run_was_first_started_outlives_its_reruns(store: Store, run: str) -> None:
    record = RunRecord.read(store, run)
    first = record.started
    again = RunRecord.read(store, run)
    object.__setattr__(again, "started", first + 3600)
    again.write(store)
    again.write(store)
    found = RunRecord.read(store, run)
    assert (found.started, found.first_started) == (first + 3600, first)
    assert ", for the first time 20" in status(store)
