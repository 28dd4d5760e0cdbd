"""`export` writes checkpoints that load, of one concept or of several fused into one."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file

import conceptprune
from conceptprune.checkpoints.files import whole_component
from conceptprune.errors import UserError
from conceptprune.masks.mask import union_masks
from conceptprune.store import Store
from conceptprune.units.worker import Worker
from tests.pipelines.commands.conftest import Run
from tests.pipelines.commands.exported import aligned, image, mask_of, metadata, only_safetensors
from tests.pipelines.conftest import CONCEPTS, TinyStore, done, record_run, whole_plan
from tests.support.sd15_shaped import build_pipeline

ADA, CY, LAST = CONCEPTS


def loaded(folder: Path) -> StableDiffusionPipeline:
    return aligned(StableDiffusionPipeline.from_pretrained(folder))


def test_an_exported_unet_has_no_tensors_that_its_class_does_not_know(
    tiny_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("to_q.weight"))
    adapter = {name.replace("weight", f"lora_{part}.weight"): torch.ones(1) for part in "AB"}
    save_file({**tensors, **adapter}, file)
    state = whole_component({"conv_out.bias": torch.ones(4)}, folder / "unet")
    config = UNet2DConditionModel.load_config(folder / "unet")
    UNet2DConditionModel.from_config(config).load_state_dict(state, strict=True)
    assert state["conv_out.bias"].eq(1).all()


def test_an_exported_unet_is_the_whole_state_dict_of_the_base_with_the_mask(
    run_export: Run, tiny_store: TinyStore, tiny_pipe: StableDiffusionPipeline
) -> None:
    out = run_export(ADA, form="unet")
    state = load_file(only_safetensors(out))
    fresh = UNet2DConditionModel.from_config(tiny_pipe.unet.config)
    fresh.load_state_dict(state, strict=True)
    untouched = {name: tensor.clone() for name, tensor in tiny_pipe.unet.state_dict().items()}
    mask_of(tiny_store, ADA).apply(tiny_pipe)
    expected = tiny_pipe.unet.state_dict()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert any(not torch.equal(state[name], untouched[name]) for name in untouched)
    assert metadata(out)["form"] == "unet"
    # What attack and benchmark code takes: a pickled state dict, made of it in one line.
    torch.save(state, out / "unet.pt")
    fresh.load_state_dict(torch.load(out / "unet.pt", weights_only=True))


def test_an_exported_pipeline_generates_what_the_base_with_the_mask_generates(
    run_export: Run, tiny_store: TinyStore, tiny_pipe: StableDiffusionPipeline
) -> None:
    out = run_export(ADA, form="pipeline")
    untouched = image(tiny_pipe)
    mask_of(tiny_store, ADA).apply(tiny_pipe)
    expected = image(tiny_pipe)
    assert not torch.equal(expected, untouched)
    assert torch.equal(image(loaded(out)), expected)


def test_an_exported_delta_generates_what_the_base_with_the_mask_generates(
    run_export: Run, tiny_store: TinyStore, tiny_pipe: StableDiffusionPipeline
) -> None:
    edited = load_file(only_safetensors(run_export(CY, form="delta")))
    other = build_pipeline()
    found = other.unet.load_state_dict(edited, strict=False)
    assert not found.unexpected_keys
    mask_of(tiny_store, CY).apply(tiny_pipe)
    assert torch.equal(image(other), image(tiny_pipe))


def test_a_sealed_checkpoint_has_draws_in_the_pruned_places_and_the_rest_of_a_plain_one(
    run_export: Run, tiny_store: TinyStore, tmp_path: Path
) -> None:
    plain = load_file(only_safetensors(run_export(ADA, form="delta")))
    sealed = load_file(
        only_safetensors(run_export(ADA, form="delta", out=tmp_path / "sealed", seal=True))
    )
    layers = mask_of(tiny_store, ADA).layers
    assert plain.keys() == sealed.keys()
    for key, weight in plain.items():
        changed = (weight != sealed[key]).flatten().nonzero()[:, 0]
        assert changed.tolist() == layers[key.removesuffix(".weight")].entries.tolist()
        assert sealed[key].count_nonzero() == sealed[key].numel()
    with pytest.raises(UserError, match="--seal: a mask is the list of places"):
        run_export(ADA, form="mask", out=tmp_path / "mask", seal=True)


def test_a_delta_keeps_the_dtype_of_the_models_files(
    run_export: Run, tiny_store: TinyStore, tmp_path: Path
) -> None:
    # In the collection's dtype, the weights that stay would be rounded.
    uri = str(tmp_path / "copy")
    shutil.copytree(tiny_store.uri, uri)
    run_file = Path(uri) / "runs" / f"run={tiny_store.plan.run}" / "run.json"
    record = json.loads(run_file.read_text())
    record["manifest"]["collection"]["dtype"] = "float16"
    run_file.write_text(json.dumps(record))
    edited = load_file(only_safetensors(run_export(ADA, form="delta", store=uri)))
    assert {tensor.dtype for tensor in edited.values()} == {torch.float32}


def test_an_exported_mask_applies_and_comes_off(
    run_export: Run, tiny_store: TinyStore, tiny_pipe: StableDiffusionPipeline
) -> None:
    mask = conceptprune.load_mask(only_safetensors(run_export(ADA, form="mask", model=None)))
    assert mask.digest == mask_of(tiny_store, ADA).digest
    before = image(tiny_pipe)
    mask.apply(tiny_pipe)
    assert not torch.equal(image(tiny_pipe), before)
    mask.remove(tiny_pipe)
    assert torch.equal(image(tiny_pipe), before)


def test_an_exported_single_file_generates_what_the_base_with_the_mask_generates(
    run_export: Run, tiny_store: TinyStore, tiny_pipe: StableDiffusionPipeline
) -> None:
    file = only_safetensors(run_export(ADA, form="single-file"))
    pipe = StableDiffusionPipeline.from_single_file(
        str(file), config=str(tiny_store.model), local_files_only=True
    )
    mask_of(tiny_store, ADA).apply(tiny_pipe)
    assert torch.equal(image(aligned(pipe)), image(tiny_pipe))


def test_fused_concepts_are_one_checkpoint(
    run_export: Run, tiny_store: TinyStore, tiny_pipe: StableDiffusionPipeline
) -> None:
    out = run_export(ADA, CY, form="pipeline", fuse="union")
    for name in (ADA, CY):
        mask_of(tiny_store, name).apply(tiny_pipe)
    assert torch.equal(image(loaded(out)), image(tiny_pipe))
    assert metadata(out)["concepts"] == [ADA, CY]
    assert len(metadata(out)["parts"]) == 2  # type: ignore[arg-type]


def test_a_budget_is_spent_from_the_stores_own_statistics(
    run_export: Run, tiny_store: TinyStore
) -> None:
    out = run_export(ADA, CY, form="mask", fuse="budget", fraction=0.005)
    mask = conceptprune.load_mask(only_safetensors(out))
    assert mask.num_entries == int(0.005 * mask.num_weights)
    union = union_masks([mask_of(tiny_store, name) for name in (ADA, CY)])
    assert union.num_entries > mask.num_entries
    for name, layer in mask.layers.items():
        assert set(layer.entries) <= set(union.layers[name].entries)
    assert "`budget fraction 0.005`" in (out / "README.md").read_text()


def test_a_budget_needs_the_prompts_of_the_concepts_it_is_spent_on_and_no_others(
    run_export: Run, tiny_store: TinyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = str(tmp_path / "copy")
    shutil.copytree(tiny_store.uri, uri)
    # As if each concept's prompts had been a unit of their own, and the last one's had failed.
    monkeypatch.setattr("conceptprune.units.prompts_units.CONCEPTS_PER_PROMPTS_UNIT", 1)
    worker = Worker(Store(uri), tiny_store.prepared.model)
    for unit in tiny_store.prepared.prompts_units()[:2]:
        worker.run(unit)
    plan = whole_plan(tiny_store.prepared)
    made = [
        done(unit, commit)
        for unit in plan.units()
        if (commit := Store(uri).find(unit.kind, unit.key))
    ]
    record_run(Store(uri), tiny_store.prepared, plan, made)
    budget = {"form": "mask", "fuse": "budget", "fraction": 0.005, "store": uri}
    only_safetensors(run_export(ADA, CY, **budget))
    with pytest.raises(UserError, match=f'--fuse budget: the prompts of "{LAST}" in run'):
        run_export(ADA, LAST, out=tmp_path / "other", **budget)


def test_shared_entries_can_be_retained(run_export: Run, tiny_store: TinyStore) -> None:
    out = run_export(ADA, CY, form="mask", fuse="retain-shared", alpha=1.0)
    mask = conceptprune.load_mask(only_safetensors(out))
    ada, cy = (mask_of(tiny_store, name) for name in (ADA, CY))
    for name, layer in mask.layers.items():
        expected = set(ada.layers[name].entries) ^ set(cy.layers[name].entries)
        assert set(layer.entries) == expected


def test_all_files_of_an_export_have_one_mode(run_export: Run, tmp_path: Path) -> None:
    for form in ("single-file", "delta", "mask"):
        out = run_export(ADA, form=form, out=tmp_path / form)
        assert len({path.stat().st_mode for path in out.iterdir()}) == 1
