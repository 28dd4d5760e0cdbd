"""`export` finds what it is asked for, or says what is wrong and writes nothing."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import conceptprune
from conceptprune.checkpoints.single_file import write_single_file
from conceptprune.errors import StoreError, UserError
from conceptprune.masks.mask import PruningMask
from conceptprune.models.from_single_file import converted_folder
from conceptprune.models.node_cache import CACHE_VARIABLE
from conceptprune.store import Store
from pipelines.commands import export_files
from pipelines.console.names import slug
from pipelines.records.reuse import _is_lost
from tests.pipelines.commands.conftest import Run
from tests.pipelines.commands.exported import metadata, only_safetensors
from tests.pipelines.conftest import CONCEPTS, TinyStore, copied, record_run

ADA, CY, _ = CONCEPTS


def test_several_concepts_get_a_folder_each(
    run_export: Run, tiny_store: TinyStore, capsys: pytest.CaptureFixture[str]
) -> None:
    out = run_export(*CONCEPTS, form="mask")
    folders = sorted(out.iterdir())
    masks = [conceptprune.load_mask(only_safetensors(folder)) for folder in folders]
    assert {mask.concepts for mask in masks} == {(name,) for name in CONCEPTS}
    for folder, mask in zip(folders, masks, strict=True):
        assert folder.name == f"{slug(mask.concepts[0])}-{mask.digest[:8]}"
        assert (folder / "README.md").is_file()
        assert metadata(folder)["concepts"] == list(mask.concepts)
    printed = capsys.readouterr().out
    assert all(f"wrote {folder}: mask without " in printed for folder in folders)


def test_a_concept_is_found_as_manifests_compare_names_and_exported_once(run_export: Run) -> None:
    out = run_export("ada  BELL", "Ada Bell", form="mask")
    assert conceptprune.load_mask(only_safetensors(out)).concepts == (ADA,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"form": "pipline"},
            "--as pipline: allowed are pipeline, single-file, unet, delta, mask; nearest: pipeline",
        ),
        (
            {"form": "mask", "fuse": "unoin"},
            r"--fuse unoin: allowed are union, retain-shared, budget; nearest: union",
        ),
        ({"form": "mask", "run": "nope"}, r"has no such run; there are: [0-9a-f]{16}"),
        ({"form": "delta", "model": None}, r"--model: the folder of tiny is needed"),
        ({"form": "delta", "model": Path("/nowhere")}, r"/nowhere is not a folder"),
    ],
)
def test_a_wrong_option_is_explained_and_nothing_is_written(
    run_export: Run, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run_export(ADA, **options)
    assert list(tmp_path.iterdir()) == []


def test_unknown_concepts_are_all_named_with_the_nearest_spelling(
    run_export: Run, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as error:
        run_export("Ada Bel", CY, "zzz", form="mask")
    first, second = str(error.value).splitlines()
    assert '"Ada Bel" is not a concept of run' in first
    assert first.endswith("nearest: Ada Bell")
    assert '"zzz"' in second
    assert f"there are: {', '.join(CONCEPTS)}" in second
    assert list(tmp_path.iterdir()) == []


def test_another_model_is_refused(run_export: Run, tiny_store: TinyStore, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_store.model, other)
    config = other / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text() + "\n")
    with pytest.raises(UserError, match=r"other is not the model of run .*\(tiny\)"):
        run_export(ADA, form="pipeline", model=other)
    assert not (tmp_path / "out").exists()


def test_the_shipped_model_is_found_without_being_named(
    run_export: Run, tiny_store: TinyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = relabelled(tiny_store, tmp_path / "store", label="studio")
    monkeypatch.setattr(export_files, "model_path", lambda: tiny_store.model)
    out = run_export(ADA, form="delta", store=store, model=None)
    assert only_safetensors(out)


def test_a_single_file_is_a_base_model_once_a_run_has_converted_it(
    run_export: Run, tiny_store: TinyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    file = tmp_path / "model.safetensors"
    nothing = PruningMask(concepts=("none",), component="unet", layers={}, provenance={})
    write_single_file(nothing, tiny_store.model, file)
    with pytest.raises(UserError, match=r"no run on this machine had .*model\.safetensors"):
        run_export(ADA, form="delta", model=file)
    converted_folder(file, tiny_store.model)
    edited = only_safetensors(run_export(ADA, form="delta", model=file))
    again = only_safetensors(run_export(ADA, form="delta", out=tmp_path / "again"))
    assert edited.read_bytes() == again.read_bytes()


def relabelled(tiny: TinyStore, folder: Path, *, label: str) -> str:
    shutil.copytree(tiny.uri, folder)
    run_file = folder / "runs" / f"run={tiny.plan.run}" / "run.json"
    record = json.loads(run_file.read_text())
    record["model"]["label"] = label
    run_file.write_text(json.dumps(record))
    return str(folder)


def test_an_unfinished_mask_is_named(
    run_export: Run, tiny_store: TinyStore, tmp_path: Path
) -> None:
    store = Store(str(tmp_path / "store"))
    record_run(store, tiny_store.prepared, tiny_store.plan)
    with pytest.raises(UserError, match='the mask of "Ada Bell" is not finished'):
        run_export(ADA, form="mask", store=store.uri)


def test_the_newest_run_is_taken_unless_one_is_named(
    run_export: Run, tiny_store: TinyStore, tmp_path: Path
) -> None:
    folder = tmp_path / "store"
    shutil.copytree(tiny_store.uri, folder)
    runs = folder / "runs"
    old = runs / f"run={tiny_store.plan.run}"
    new = runs / "run=ffff"
    shutil.copytree(old, new)
    record = json.loads((new / "run.json").read_text())
    record["started"] += 100
    record["manifest"]["concepts"] = record["manifest"]["concepts"][:1]
    (new / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="is not a concept of run ffff"):
        run_export(CY, form="mask", store=str(folder))
    run_export(CY, form="mask", store=str(folder), run=tiny_store.plan.run)


def test_a_folder_in_use_is_left_alone(run_export: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    run_export(ADA, form="mask")  # An empty folder may be filled.
    before = sorted(out.iterdir())
    with pytest.raises(UserError, match="exists already"):
        run_export(CY, form="mask")
    assert sorted(out.iterdir()) == before


def test_a_failed_export_leaves_nothing_behind(
    run_export: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> str:
        raise RuntimeError("disk full")

    monkeypatch.setattr(export_files, "model_card", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        run_export(ADA, form="pipeline")
    assert list(tmp_path.iterdir()) == []


def test_the_mask_of_another_concept_is_not_exported_whatever_its_record_says(
    tiny_store: TinyStore, tmp_path: Path, run_export: Run
) -> None:
    store = copied(tiny_store, tmp_path / "store")
    mine, other = (plan.mask for plan in tiny_store.plan.concepts if plan.concept.name in (ADA, CY))
    record = replace(store.get("mask", mine.key), objects=store.get("mask", other.key).objects)
    place = Path(store.uri, "commits", "mask", f"{mine.key}.json")
    place.unlink()
    place.write_bytes(record.to_bytes())
    with pytest.raises(StoreError, match=f'recorded as the mask of "{ADA}".*mask of {CY}'):
        run_export(ADA, form="mask", store=store.uri)
    assert not (tmp_path / "out").exists()
    assert _is_lost(store, mine)  # As `erase --verify` looks at it.
    assert _is_lost(store, mine)  # As `erase --verify` looks at it.
    assert store.find("mask", mine.key) is None
