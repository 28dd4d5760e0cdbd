"""Selectors and fusions on a real store, unit by unit: what a manifest asks for is what is made."""

from pathlib import Path

import pytest

from conceptprune.store import Store
from conceptprune.units.prompts_units import prompts_units
from conceptprune.units.results import read_mask
from pipelines.jobs.preparation import plan_here, prepare
from pipelines.scheduling.graph import committed_in, units_to_do
from tests.pipelines.conftest import worker_of, write_manifest

pytestmark = pytest.mark.slow


def test_a_run_with_a_budget_then_with_another_selector_reuses_what_was_collected(
    tmp_path: Path, tiny_folder: Path
) -> None:
    concepts = [{"name": name, "kind": "style"} for name in ("Ada Bell", "Cy Dow")]
    retain = [{"name": "Gil Hart", "kind": "style"}]
    store = Store(str(tmp_path / "store"))
    for pruning in (
        {"selector": "conceptprune", "sparsity": 0.02},
        {"selector": "fia"},
        {"selector": "fia", "r2": 0.05},
    ):
        manifest = write_manifest(
            tmp_path / "m.yaml",
            tiny_folder,
            concepts=concepts,
            retain=retain,
            pruning=pruning,
            outputs={"fuse": {"how": "budget", "fraction": 0.004}},
        )
        prepared = prepare(manifest)
        plan = plan_here(prepared)
        worker = worker_of(prepared, store)
        for unit in (*prompts_units(prepared.manifest), *units_to_do(plan, committed_in(store))):
            worker.run(unit)
        assert plan.combined
        fused = read_mask(store, plan.combined.key)
        assert 0 < fused.num_entries <= int(0.004 * fused.num_weights)
        assert fused.concepts == ("Ada Bell", "Cy Dow")
        own = [read_mask(store, concept.mask.key) for concept in plan.concepts]
        assert all(mask.provenance["selector"] == pruning["selector"] for mask in own)
    # Three targets and the base they share, whatever selected from them.
    assert len(store.committed("statistics")) == 4
