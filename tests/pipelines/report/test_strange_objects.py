"""Objects with right digests that are not what this version writes: told or left out, no crash."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from conceptprune.collection.statistics import Statistics
from conceptprune.errors import StoreError
from conceptprune.evaluation.summary import OBJECT
from conceptprune.evaluation.units import EvaluationUnit
from conceptprune.store import (
    Commit,
    LostUnitError,
    Store,
    parquet_to_table,
    table_to_parquet,
)
from conceptprune.units.results import read_mask, read_statistics
from pipelines.report import write_report
from pipelines.report.evaluations import read_evaluations
from tests.pipelines.conftest import TinyStore, copied
from tests.pipelines.report.many import commit_summary, score


@pytest.fixture
def store(tiny_store: TinyStore, tmp_path: Path) -> Store:
    return copied(tiny_store, tmp_path / "store")


def put_back(store: Store, commit: Commit) -> None:
    store.remove([f"commits/{commit.kind}/{commit.key}.json"])
    store.commit(commit)


def rewrite(
    store: Store, kind: str, key: str, role: str, change: Callable[[pa.Table], pa.Table]
) -> None:
    """Let a unit name a changed table."""
    commit = store.get(kind, key)
    data = table_to_parquet(change(parquet_to_table(store.load(commit, role))))
    ref = store.put(data, kind=role, model="0" * 12, suffix="parquet")
    put_back(store, replace(commit, objects={**commit.objects, role: ref}))


def column(name: str, change: Callable[[object], object]) -> Callable[[pa.Table], pa.Table]:
    def changed(table: pa.Table) -> pa.Table:
        at = table.schema.get_field_index(name)
        values = [change(value) for value in table.column(at).to_pylist()]
        field = table.schema.field(at)
        return table.set_column(at, field, pa.array(values, field.type))

    return changed


def page(store: Store, folder: Path) -> str:
    write_report(store.uri, out=folder / "page.html", run=None)
    return (folder / "page.html").read_text()


def test_a_record_without_an_object_in_its_role_is_set_aside_and_named(
    tiny_store: TinyStore, store: Store
) -> None:
    mask = tiny_store.plan.concepts[0].mask
    commit = store.get("mask", mask.key)
    put_back(store, replace(commit, objects={"neurons": commit.objects["neurons"]}))
    with pytest.raises(LostUnitError, match=f'{mask.key}.json names no object in the role "mask"'):
        read_mask(store, mask.key)
    # It no longer counts as done, so that a job computes it again.
    assert store.find("mask", mask.key) is None
    assert store.committed("mask").isdisjoint({mask.key})


CHANGES = [
    column("sum_sq", lambda values: list(values)[:1]),  # type: ignore[call-overload]
    column("sum_norm", lambda _: []),
    column("sum_sq", lambda values: [None] * len(values)),  # type: ignore[arg-type]
    column("width", lambda width: width + 1),  # type: ignore[operator]
    column("prompts", lambda _: 0),
    column("call", lambda call: 2 * call),  # type: ignore[operator]
    lambda table: table.slice(0, 0),
]


@pytest.mark.parametrize("change", CHANGES)
def test_statistics_that_are_no_whole_grid_are_named_to_workers_and_left_out_of_a_report(
    tiny_store: TinyStore,
    store: Store,
    tmp_path: Path,
    change: Callable[[pa.Table], pa.Table],
) -> None:
    key = tiny_store.plan.concepts[0].target.key
    rewrite(store, "statistics", key, "statistics", change)
    with pytest.raises(StoreError, match=f"statistics {key[:12]}: "):
        read_statistics(store, "statistics", key, "statistics")
    assert "which calls selected the weights" in page(store, tmp_path)


def test_whole_statistics_of_other_columns_than_the_masks_are_left_out_of_a_report(
    tiny_store: TinyStore, store: Store, tmp_path: Path
) -> None:
    def narrower(table: pa.Table) -> pa.Table:
        found = Statistics.from_arrow(table)
        layers = {
            name: replace(layer, sum_sq=layer.sum_sq[:, 1:], sum_norm=layer.sum_norm[:, 1:])
            for name, layer in found.layers.items()
        }
        said = json.loads(table.schema.metadata[b"conceptprune.provenance"])
        return replace(found, layers=layers).to_arrow(said)

    for side in (tiny_store.plan.concepts[0].target, tiny_store.plan.concepts[0].base):
        rewrite(store, "statistics", side.key, "statistics", narrower)
    assert "statistics do not fit a mask" in page(store, tmp_path)


@pytest.mark.parametrize("data", [b"", b"no image", b"\x89PNG\r\n\x1a\n", b"GIF89a\1\0\1\0\0\0\0;"])
def test_an_image_that_is_none_is_left_out_of_a_report(
    tiny_store: TinyStore,
    store: Store,
    tmp_path: Path,
    data: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = page(store, tmp_path).count("data:image/")
    after = tiny_store.plan.concepts[0].preview_after
    assert after
    rewrite(store, "preview", after.key, "preview", column("png", lambda _: data))
    assert 0 < page(store, tmp_path).count("data:image/") < before
    assert "an image is left out" in caplog.text


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.drop_columns(["seed"]),
        lambda table: table.set_column(
            table.schema.get_field_index("base"), "base", pa.array(range(len(table)))
        ),
    ],
)
def test_prompts_that_are_no_table_of_prompts_are_one_error(
    tiny_store: TinyStore,
    store: Store,
    tmp_path: Path,
    change: Callable[[pa.Table], pa.Table],
) -> None:
    (unit, *_) = tiny_store.prepared.prompts_units()
    rewrite(store, unit.kind, unit.key, "prompts", change)
    with pytest.raises(StoreError, match="a table of prompts has no whole column"):
        page(store, tmp_path)


def a_row(**changes: object) -> Callable[[pa.Table], pa.Table]:
    return lambda table: pa.Table.from_pylist([score(**changes)], schema=table.schema)


def of_another_type(name: str) -> Callable[[pa.Table], pa.Table]:
    def changed(table: pa.Table) -> pa.Table:
        at = table.schema.get_field_index(name)
        return table.set_column(at, name, pa.array([["x"]] * len(table)))

    return changed


def with_gap(name: str) -> Callable[[pa.Table], pa.Table]:
    def changed(table: pa.Table) -> pa.Table:
        at = table.schema.get_field_index(name)
        return table.set_column(at, name, pa.array([None] * len(table), pa.string()))

    return changed


def store_strange_summary(store: Store, change: Callable[[pa.Table], pa.Table]) -> str:
    """Put a sound summary and a changed one into the store; returns the key of the latter."""
    commit_summary(store, [score(value=0.25)])
    (sound,) = store.committed(EvaluationUnit.kind)
    commit_summary(store, [score(suite="strange")], finished=1.0)
    (key,) = store.committed(EvaluationUnit.kind) - {sound}
    rewrite(store, EvaluationUnit.kind, key, OBJECT, change)
    return key


STRANGE_SUMMARIES = [
    lambda table: table.drop_columns(["settings"]),
    lambda table: table.append_column("erased", table.column("erased")),
    *map(of_another_type, ("digest", "value", "n")),
    with_gap("suite"),
    column("erased", lambda _: [None]),
    *(
        a_row(settings=text)
        for text in (
            "{",
            "[" * 100_000,
            '{"a": NaN}',
            '{"a": 1e999}',
            '{"spent": [1]}',
            '{"scorer": {"scorer": "studio-judge", "_fields_set": 7}, "of": []}',
            '{"scorer": {"scorer": "classifier", "labels": 3}, "of": {"a": 1}}',
            '{"a": ' * 99 + "1" + "}" * 99,
        )
    ),
    a_row(n=-1),
    a_row(better="[/bold]"),
]


@pytest.mark.parametrize("change", STRANGE_SUMMARIES)
def test_a_summary_that_no_version_writes_is_named_and_hides_no_other(
    tmp_path: Path, change: Callable[[pa.Table], pa.Table]
) -> None:
    store, key = Store(str(tmp_path)), store_strange_summary(Store(str(tmp_path)), change)
    found = read_evaluations(store)
    assert [each.suite for each in found.scores] == ["small"]
    (told,) = found.not_shown
    assert told.startswith(f"the evaluation {key[:12]}, which is not such as this version writes")


def test_a_site_names_a_summary_that_no_version_writes(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    key = store_strange_summary(store, a_row(settings="<b>"))
    (told,) = write_report(store.uri, out=tmp_path / "site", run=None)
    assert f"the evaluation {key[:12]}, " in told
    assert f"the evaluation {key[:12]}, " in (tmp_path / "site" / "index.html").read_text()


@pytest.mark.parametrize("finished", ["soon", None, [1], -1, 2**63, True])
def test_when_a_summary_was_finished_may_be_anything(tmp_path: Path, finished: object) -> None:
    store = Store(str(tmp_path))
    commit_summary(store, [score(value=0.25)], finished=1.0)
    commit_summary(store, [score(suite="other")], finished=2.0)
    for key in store.committed(EvaluationUnit.kind):
        commit = store.get(EvaluationUnit.kind, key)
        if commit.provenance["finished"] == 2.0:
            put_back(store, replace(commit, provenance={"finished": finished}))
    assert len(read_evaluations(store).scores) == 2
