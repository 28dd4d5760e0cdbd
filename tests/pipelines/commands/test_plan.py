"""`plan` counts what a job would do and write, and does and writes nothing."""

import re
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console

from conceptprune.units.unit import Unit
from conceptprune.units.units import FusedMaskUnit, MaskUnit, PreviewUnit
from pipelines.commands import plan as plan_view
from pipelines.commands.plan import evaluations_per_second, show_plan
from pipelines.jobs.preparation import plan_here, prepare
from pipelines.jobs.sizes import sizes_of
from tests.pipelines.conftest import CONCEPTS, TinyStore, write_manifest


def shown(manifest: Path, store: str | None = None, *, calibrate: bool = False) -> str:
    sink = StringIO()
    show_plan(manifest, store, calibrate=calibrate, console=Console(file=sink, width=80))
    return sink.getvalue()


def cells(text: str, row: str) -> list[str]:
    """The cells of a table's row."""
    table = text.partition("\n\n")[2]
    (line,) = [line for line in table.splitlines() if re.match(re.escape(row) + r"\s{2,}", line)]
    return re.split(r"\s{2,}", line.strip())[1:]


def every_unit(tiny: TinyStore) -> list[Unit]:
    return list(tiny.plan.units())


def test_concepts_prompts_and_evaluations_are_counted_and_shared_ones_once(
    tiny_store: TinyStore,
) -> None:
    text = shown(tiny_store.manifest)
    assert f"concepts  3 (3 style): {', '.join(CONCEPTS)}" in text
    # 3 concepts x 3 fillers and the 3 base prompts they share; 3 calls of two branches each.
    assert "prompts   12 to collect" in text
    assert cells(text, "target") == ["3", "3", "9", "54"]
    assert cells(text, "base") == ["1", "3", "3", "18"]
    assert cells(text, "window")[:2] == ["16", "72"]
    previews = tiny_store.plan.of(PreviewUnit).values()
    images = sum(len(unit.prompts) for unit in previews)
    assert cells(text, "preview")[:2] == [f"{len(previews)}", f"{2 * 2 * images}"]
    assert cells(text, "total")[0] == f"{len(every_unit(tiny_store))}"


def test_what_the_cluster_must_offer_is_told(tiny_store: TinyStore, tmp_path: Path) -> None:
    compute = {"actors": 3, "cpus_per_actor": 1.5, "gpus_per_actor": 0.5}
    manifest = write_manifest(tmp_path / "m.yaml", tiny_store.model, compute=compute)
    text = shown(manifest)
    assert "3 actors of 1.5 CPUs and 0.5 GPUs" in text
    assert "in all 6 CPUs, 1.5 GPUs" in text
    # In float32, as its files are: these hold the weights and small headers.
    files = sum(path.stat().st_size for path in tiny_store.model.glob("*/*.safetensors"))
    (told, unit) = re.findall(r"estimated: ([\d.]+) (\wB) of weights in float32", text)[0]
    size = float(told) * {"kB": 1e3, "MB": 1e6}[unit]
    assert 0.8 * files < size <= 1.01 * files


def test_a_retained_concept_that_is_erased_too_is_collected_once(
    tiny_store: TinyStore, tmp_path: Path
) -> None:
    manifest = write_manifest(
        tmp_path / "m.yaml",
        tiny_store.model,
        retain=[{"name": name, "kind": "style"} for name in (CONCEPTS[0], "Flo Gray")],
        pruning={"sparsity": 0.02, "base": "plain+retained-mean"},
    )
    text = shown(manifest)
    assert cells(text, "retained (1 also above)") == ["2", "3", "3", "18"]
    assert cells(text, "window")[1] == "90"


def test_with_a_store_what_is_left_is_shown(tiny_store: TinyStore, tmp_path: Path) -> None:
    text = shown(tiny_store.manifest, tiny_store.uri)
    assert "nothing to compute" in text
    assert cells(text, "total")[3:] == ["0", "0", "0 bytes"]

    more = [{"name": name, "kind": "style"} for name in (*CONCEPTS, "Flo Gray")]
    manifest = write_manifest(tmp_path / "m.yaml", tiny_store.model, concepts=more, outputs={})
    text = shown(manifest, tiny_store.uri)
    # Of the new concept: its side, 2 shards of 2 windows; its mask; and the prompts file it is in.
    assert cells(text, "prompts")[3] == "1"
    assert cells(text, "window")[3:5] == ["4", "18"]
    assert cells(text, "statistics")[3] == "1"
    assert cells(text, "mask")[3] == "1"
    assert "7 of 30 units are left" in text


def test_nothing_is_written(tiny_store: TinyStore, tmp_path: Path) -> None:
    nowhere = tmp_path / "store"
    text = shown(tiny_store.manifest, str(nowhere))
    count = len(every_unit(tiny_store))
    assert f"{count} of {count} units are left" in text
    assert not nowhere.exists()


@pytest.mark.parametrize(
    "kind", ["prompts", "window", "statistics", "mask", "fused-mask", "checkpoint", "preview"]
)
def test_bytes_are_estimated_well_and_not_too_low(tiny_store: TinyStore, kind: str) -> None:
    units = [unit for unit in every_unit(tiny_store) if unit.kind == kind]
    refs = {
        ref.path: ref.size
        for unit in units
        for ref in tiny_store.commits[unit.key].objects.values()
    }
    written = sum(refs.values())
    estimate = sizes_of(tiny_store.prepared).total(units, tiny_store.plan.by_key)
    # Compression saves a little; masks are far below k * tau where calls agree.
    assert 0.9 * written <= estimate <= 4 * written
    if kind in ("statistics", "checkpoint"):
        assert estimate <= 1.3 * written


@pytest.mark.parametrize("pruning", [{"threshold": 0.5}, {"tau": 1}, {"min_per_row": 9}])
def test_mask_bytes_follow_the_selection(
    tiny_store: TinyStore, tmp_path: Path, pruning: dict[str, float]
) -> None:
    def mask_bytes(**changes: float) -> int:
        settings = {"sparsity": 0.05, **changes}
        path = write_manifest(tmp_path / "m.yaml", tiny_store.model, pruning=settings)
        prepared = prepare(path)
        plan = plan_here(prepared)
        return plan.concepts[0].mask.bytes_written(sizes_of(prepared), plan.by_key)

    plain = mask_bytes()
    changed = mask_bytes(**pruning)
    assert (changed > plain) if "min_per_row" in pruning else (changed < plain)


def test_a_mask_never_costs_more_than_all_of_its_site(tiny_store: TinyStore) -> None:
    sizes = sizes_of(tiny_store.prepared)
    weights = sum(rows * columns for rows, columns in sizes.shapes.values())
    assert len(sizes.shapes) == 16
    masks = [unit for unit in tiny_store.plan.units() if isinstance(unit, MaskUnit | FusedMaskUnit)]
    assert all(mask.bytes_written(sizes, tiny_store.plan.by_key) < 1.05 * weights for mask in masks)


def test_calibration_times_the_model_and_estimates_the_job(
    tiny_store: TinyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    rate = evaluations_per_second(tiny_store.prepared, tiny_store.plan)
    assert 0 < rate < 1e6

    def one(*_: object) -> float:
        return 1.0

    monkeypatch.setattr(plan_view, "evaluations_per_second", one)
    text = shown(tiny_store.manifest, calibrate=True)
    evaluations = int(cells(text, "total")[1])
    # Two actors, an evaluation a second each.
    assert f"{evaluations} evaluations take about {evaluations // 2} s with 2 workers" in text
    assert "0 evaluations take about 0 s" in shown(
        tiny_store.manifest, tiny_store.uri, calibrate=True
    )


def test_calibration_has_an_actors_threads_and_gives_them_back(
    tiny_store: TinyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_manifest(tmp_path / "m.yaml", tiny_store.model, compute={"threads_per_actor": 5})
    prepared = prepare(path)
    before = torch.get_num_threads()
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    evaluations_per_second(prepared, plan_here(prepared))
    assert asked == [5, before]


def test_five_hundred_concepts_are_planned_with_what_they_share(
    tiny_store: TinyStore, tmp_path: Path
) -> None:
    concepts = [{"name": f"artist {index}", "kind": "style"} for index in range(500)]
    manifest = write_manifest(
        tmp_path / "m.yaml", tiny_store.model, concepts=concepts, fillers={}, collection={}
    )
    text = shown(manifest, tiny_store.uri)
    assert "and 492 more" in text
    assert cells(text, "base")[:2] == ["1", "500"]
    assert cells(text, "target")[-1] == f"{500 * 20 * 2 * 10:,}"
