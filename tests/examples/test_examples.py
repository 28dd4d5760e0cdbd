"""Every example runs as it is written, and does what it says."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from diffusers import StableDiffusionPipeline
from PIL import Image

from conceptprune import load_mask
from conceptprune.manifest import load_manifest
from conceptprune.store import Store
from conceptprune.studio import model_path
from conceptprune.studio.judge import Judge
from conceptprune.studio.names import ARTISTS as STUDIO_ARTISTS
from conceptprune.units.prompts_units import prompts_units
from pipelines.jobs.preparation import plan_here, prepare
from tests.pipelines.conftest import worker_of, write_manifest

EXAMPLES = Path(__file__).parents[2] / "examples"
ARTISTS = ("vorla brint", "kesto malu")


def run(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two artists' masks from the studio model, made without Ray."""
    folder = tmp_path_factory.mktemp("examples")
    manifest = write_manifest(
        folder / "manifest.yaml",
        model_path(),
        fillers={"style": ["cat", "car"]},
        concepts=[{"name": name, "kind": "style"} for name in ARTISTS],
        outputs={},
    )
    prepared = prepare(manifest)
    worker = worker_of(prepared, Store(str(folder / "store")))
    for unit in (*prompts_units(prepared.manifest), *plan_here(prepared).units()):
        worker.run(unit)
    return folder / "store"


def test_one_concept_is_erased_from_a_loaded_pipeline_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(monkeypatch, "erase_one_concept.py", tmp_path)
    before, erased, restored = (
        np.asarray(Image.open(tmp_path / f"{name}.png"))
        for name in ("before", "erased", "restored")
    )
    assert np.array_equal(before, restored)
    artists = Judge.load().verdicts(np.stack([before, erased])).artist
    seen = [STUDIO_ARTISTS[index - 1].name for index in artists if index]
    assert seen[:1] == ["vorla brint"]
    assert "vorla brint" not in seen[1:]
    assert load_mask(tmp_path / "mask.safetensors").concepts == ("vorla brint",)


def test_a_rule_of_ones_own_selects_from_what_a_job_stored(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(monkeypatch, "own_selector.py", store, ARTISTS[1], tmp_path / "mask.safetensors")
    mask = load_mask(tmp_path / "mask.safetensors")
    assert mask.concepts == (ARTISTS[1],)
    mask.apply(StableDiffusionPipeline.from_pretrained(model_path()))
    for layer in mask.layers.values():
        rows, columns = layer.shape
        pruned = np.unique(layer.entries % columns)
        assert 0 < len(pruned) <= np.ceil(columns / 100)
        assert len(layer.entries) == rows * len(pruned)


def test_a_list_of_names_becomes_a_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(monkeypatch, "takedown_list.py", EXAMPLES / "takedowns.csv", tmp_path / "m.yaml")
    manifest = load_manifest(tmp_path / "m.yaml")
    assert [concept.name for concept in manifest.concepts] == ["Vorla Brint", "Kesto Malu"]


def test_a_store_answers_questions_in_sql(
    store: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "query_store.py", store)
    shown = capfd.readouterr().out
    assert "ff.net.2" in shown
    (row,) = [line for line in shown.splitlines() if ARTISTS[0] in line]
    assert ARTISTS[1] in row
    assert 0 < float(row.split("│")[3]) < 1


def test_every_example_is_listed_and_short() -> None:
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    scripts = sorted(path.name for path in EXAMPLES.glob("*.py"))
    assert len(scripts) == 4
    for name in scripts:
        assert f"({name})" in listed
        assert len((EXAMPLES / name).read_text(encoding="utf-8").splitlines()) < 60
