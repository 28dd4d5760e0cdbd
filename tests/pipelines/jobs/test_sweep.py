"""`sweep`: many settings compared from one collection, unit by unit on a real store."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from rich.console import Console

from conceptprune.errors import StoreError
from conceptprune.store import Store, parquet_to_table, table_to_parquet
from conceptprune.units.plan import Plan
from conceptprune.units.prompts_units import prompts_units
from conceptprune.units.results import read_mask
from conceptprune.units.worker import Worker
from pipelines.cli import main
from pipelines.jobs.preparation import plan_here, prepare
from pipelines.jobs.sizes import sizes_of
from pipelines.jobs.sweep import sweep
from pipelines.scheduling.graph import committed_in, units_to_do
from tests.pipelines.conftest import worker_of, write_manifest

SWEEP = {
    "selector": ["conceptprune", "fia"],
    "sparsity": [0.001, 0.02, 0.05],
    "tau": [1, 3],
    "threshold": [0.0, 0.4],
    "r2": [0.05, 0.1],
}
CONCEPTS = [{"name": name, "kind": "style"} for name in ("Ada Bell", "Cy Dow")]


class Swept:
    """A store, and what plans made of a manifest do to it."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder = folder
        self.model = model
        self.store = Store(str(folder / "store"))

    def manifest(self, **changes: Any) -> Path:
        return write_manifest(
            self.folder / "m.yaml", self.model, **{"concepts": CONCEPTS, "sweep": SWEEP, **changes}
        )

    def run(self, *, is_sweep: bool, **changes: Any) -> tuple[Plan, list[str]]:
        """Do what is left; returns the plan, and the kinds of the units done."""
        prepared = prepare(self.manifest(**changes), sweep=is_sweep)
        plan = plan_here(prepared)
        worker: Worker = worker_of(prepared, self.store)
        for unit in prompts_units(prepared.manifest):
            worker.run(unit)
        left = units_to_do(plan, committed_in(self.store))
        for unit in left:
            commit = worker.run(unit)
            if unit.kind.startswith("sweep"):
                written = sum(ref.size for ref in commit.objects.values())
                assert written < 4 * unit.bytes_written(sizes_of(prepared), plan.by_key)
        return plan, sorted(unit.kind for unit in left)

    def rows(self, plan: Plan) -> list[dict[str, Any]]:
        assert plan.sweep_table
        commit = self.store.get("sweep-table", plan.sweep_table.key)
        rows: list[dict[str, Any]]
        rows = parquet_to_table(self.store.load(commit, "sweep")).to_pylist()
        return rows


@pytest.fixture(scope="module")
def swept(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Swept, Plan]:
    made = Swept(tmp_path_factory.mktemp("sweep"), tiny_folder)
    plan, kinds = made.run(is_sweep=True)
    # For each concept a unit for each k and each r2, whatever the number of tau and thresholds.
    assert (kinds.count("sweep"), kinds.count("mask"), kinds.count("sweep-table")) == (10, 2, 1)
    return made, plan


def test_a_sweep_has_a_row_for_every_concept_and_setting(swept: tuple[Swept, Plan]) -> None:
    rows = swept[0].rows(swept[1])
    assert len(rows) == 2 * (3 * 2 * 2 + 2 * 2)
    settings = {
        (r["concept"], r["selector"], r["sparsity"], r["threshold"], r["r2"], r["tau"])
        for r in rows
    }
    assert len(settings) == len(rows)
    for row in rows:
        assert (row["sparsity"] is None) is (row["selector"] == "fia")
        if not row["error"]:
            assert row["entries"] == sum(row["layer_entries"])
            assert row["density"] == row["entries"] / row["site_weights"]
            assert row["shared"] <= min(row["entries"], row["reference_entries"])


def test_the_manifests_own_setting_is_the_reference(swept: tuple[Swept, Plan]) -> None:
    rows = swept[0].rows(swept[1])
    own = [r for r in rows if (r["sparsity"], r["tau"], r["threshold"]) == (0.02, 3, 0.0)]
    assert [(row["overlap"], row["entries"]) for row in own] == [
        (1.0, read_mask(swept[0].store, concept.mask.key).num_entries)
        for concept in swept[1].concepts
    ]
    assert all(row["overlap"] < 1 for row in rows if row not in own and not row["error"])


def test_a_setting_that_a_layer_is_too_narrow_for_is_a_row_that_says_so(
    swept: tuple[Swept, Plan],
) -> None:
    rows = swept[0].rows(swept[1])
    refused = [row for row in rows if row["error"]]
    assert {row["sparsity"] for row in refused} == {0.001}
    assert all("min_per_row" in row["error"] and row["entries"] is None for row in refused)


def test_a_row_says_what_erasing_with_its_setting_prunes(swept: tuple[Swept, Plan]) -> None:
    rows = swept[0].rows(swept[1])
    for setting, pruning in (
        ({"r2": 0.1, "tau": 1}, {"selector": "fia", "r2": 0.1, "tau": 1}),
        (
            {"sparsity": 0.05, "tau": 3, "threshold": 0.4},
            {"sparsity": 0.05, "tau": 3, "threshold": 0.4},
        ),
    ):
        plan, kinds = swept[0].run(is_sweep=False, pruning=pruning, outputs={})
        # Nothing is collected again.
        assert kinds == ["mask", "mask"]
        for concept in plan.concepts:
            mask = read_mask(swept[0].store, concept.mask.key)
            (row,) = [
                row
                for row in rows
                if row["concept"] == concept.concept.name
                and all(row[name] == value for name, value in setting.items())
            ]
            assert row["entries"] == mask.num_entries
            densities = dict(zip(row["layers"], row["layer_density"], strict=True))
            assert densities == mask.layer_density()


def test_a_second_sweep_computes_nothing_and_one_more_value_only_its_own(
    swept: tuple[Swept, Plan],
) -> None:
    assert swept[0].run(is_sweep=True)[1] == []
    more = {**SWEEP, "r2": [0.05, 0.1, 0.2]}
    assert swept[0].run(is_sweep=True, sweep=more)[1] == ["sweep", "sweep", "sweep-table"]


def test_the_sweep_section_is_no_matter_to_erasing(tiny_folder: Path, tmp_path: Path) -> None:
    here = Swept(tmp_path, tiny_folder)
    with_sweep = plan_here(prepare(here.manifest()))
    without = plan_here(prepare(here.manifest(sweep=None)))
    assert with_sweep == without
    assert plan_here(prepare(here.manifest(), sweep=True)).run != without.run


def test_a_finished_sweep_is_printed_without_a_cluster(
    swept: tuple[Swept, Plan], capsys: pytest.CaptureFixture[str]
) -> None:
    path = swept[0].manifest()
    assert sweep(path, swept[0].store.uri, Console(width=120)) == 0
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert lines[0].split() == [
        *("selector", "sparsity", "threshold", "min_per_row", "r1", "r2", "tau", "concepts"),
        *("%", "of", "site", "from", "to", "overlap"),
    ]
    assert sum(line.startswith("fia") for line in lines) == 4
    assert sum("refused" in line and line.startswith("conceptprune") for line in lines) == 4
    (table,) = [line.split(": ")[1] for line in lines if line.startswith("every concept")]
    assert (Path(swept[0].store.uri) / table).is_file()


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.drop_columns(["tau"]),
        lambda table: table.set_column(
            table.schema.get_field_index("density"), "density", pa.array(["x"] * len(table))
        ),
        lambda table: table.set_column(
            table.schema.get_field_index("density"),
            "density",
            pa.array([None] * len(table), pa.float64()),
        ),
    ],
)
def test_a_table_that_no_sweep_writes_is_one_error(
    swept: tuple[Swept, Plan], tmp_path: Path, change: Callable[[pa.Table], pa.Table]
) -> None:
    shutil.copytree(swept[0].store.uri, tmp_path / "store")
    store, unit = Store(str(tmp_path / "store")), swept[1].sweep_table
    assert unit
    commit = store.get(unit.kind, unit.key)
    table = change(parquet_to_table(store.load(commit, "sweep")))
    metadata = {**table.schema.metadata, b"conceptprune.sorted_by": b"concept"}
    data = table_to_parquet(table.replace_schema_metadata(metadata))
    ref = store.put(data, kind="sweep", model="0" * 12, suffix="parquet")
    store.remove([f"commits/{unit.kind}/{unit.key}.json"])
    store.commit(replace(commit, objects={"sweep": ref}))
    with pytest.raises(StoreError, match=f"{unit.key}.json or an object that it names is not"):
        sweep(swept[0].manifest(), store.uri, Console())


def test_a_manifest_without_a_sweep_is_bad_input(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Swept(tmp_path, tiny_folder).manifest(sweep=None)
    with pytest.raises(SystemExit) as stop:
        main(["sweep", str(path), "--store", str(tmp_path / "store")])
    assert stop.value.code == 2
    assert "has no section sweep" in capsys.readouterr().err
