"""Every family end to end: one manifest, from prompts to checkpoints that load."""

import dataclasses
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from conceptprune.checkpoints.files import delta_file, pipeline_files
from conceptprune.errors import NoEffectError, UserError
from conceptprune.store import Store
from conceptprune.units.prompts_units import prompts_units
from conceptprune.units.results import read_mask
from conceptprune.units.units import WindowUnit
from conceptprune.units.worker import Worker
from pipelines.cli import main
from pipelines.jobs.preparation import plan_here, prepare
from pipelines.jobs.sizes import sizes_of
from tests.support.tiny_models import TINY_MODELS, TinyModel


def write_manifest(folder: Path, tiny: TinyModel, **sections: Any) -> Path:
    """A manifest for the tiny model, which is saved beside it."""
    model = folder / "model"
    tiny.pipeline().save_pretrained(model)
    content: dict[str, Any] = {
        "version": 1,
        "model": {"folder": "model"},
        "concepts": [{"name": "Ada Bell", "kind": "style"}],
        "fillers": {"style": ["cat", "car"]},
        "collection": {"steps": 4, "tau": 2, "dtype": "float32", "resolution": tiny.resolution},
        "pruning": {"sparsity": 0.05},
        "outputs": {"preview": {"steps": 2, "seeds": [0], "prompts_per_concept": 1}},
        "compute": {"actors": 0},
    }
    for name, section in sections.items():
        content[name] = {**content.get(name, {}), **section}
    path = folder / "manifest.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


@pytest.mark.parametrize("tiny", TINY_MODELS, ids=lambda tiny: tiny.name)
def test_a_concept_is_erased(tiny: TinyModel, tmp_path: Path) -> None:
    prepared = prepare(write_manifest(tmp_path, tiny))
    worker = Worker(Store(str(tmp_path / "store")), prepared.model)
    plan = plan_here(prepared)
    for unit in (*prompts_units(prepared.manifest), *plan.units()):
        worker.run(unit)
    mask = read_mask(worker.store, plan.concepts[0].mask.key)
    assert 0 < mask.density < 0.11
    assert next(iter(plan.of(WindowUnit).values())).evaluations == 2 * 2 * tiny.num_branches
    assert sizes_of(prepared).total(plan.units(), plan.by_key) > 0

    # The folder, the delta and the mask give the same weights, and only pruned ones differ.
    folder = tmp_path / "model"
    for name, data in pipeline_files(mask, folder):
        path = tmp_path / "out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    out = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "out")
    masked, patched = (diffusers.DiffusionPipeline.from_pretrained(folder) for _ in range(2))
    mask.apply(masked)
    (tmp_path / "delta.safetensors").write_bytes(delta_file(mask, folder))
    delta = load_file(tmp_path / "delta.safetensors")
    getattr(patched, mask.component).load_state_dict(delta, strict=False)
    weights = [getattr(pipe, mask.component).state_dict() for pipe in (out, masked, patched)]
    untouched = getattr(tiny.pipeline(), mask.component).state_dict()
    for name, tensor in untouched.items():
        assert torch.equal(weights[0][name], weights[1][name])
        assert torch.equal(weights[0][name], weights[2][name])
        layer = mask.layers.get(name.removesuffix(".weight"))
        changed = (weights[0][name] != tensor).flatten().nonzero().squeeze(1).numpy()
        pruned = layer.entries if layer else np.empty(0, np.int64)
        np.testing.assert_array_equal(changed, pruned)
        if layer:
            assert (pruned % layer.shape[1] >= layer.first_column).all()
    images = [image_of(pipe, tiny) for pipe in (masked, out, patched)]
    assert np.array_equal(images[0], images[1])
    assert np.array_equal(images[0], images[2])


def image_of(pipe: diffusers.DiffusionPipeline, tiny: TinyModel) -> np.ndarray[Any, Any]:
    pipe.set_progress_bar_config(disable=True)
    for module in pipe.components.values():
        if isinstance(module, torch.nn.Module):
            for parameter in module.eval().parameters():
                # Kernels round otherwise where a file's weights lie off the 64-byte grid.
                parameter.data = parameter.data.clone()
    generator = torch.Generator().manual_seed(0)
    output = pipe(
        "a cat", num_inference_steps=2, generator=generator, output_type="np", **tiny.call
    )
    image: np.ndarray[Any, Any] = output.images
    return image


def test_the_command_line_erases_from_a_transformer_without_ray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connected(_: object) -> None:
        raise AssertionError("there is no actor, and so nothing to connect to")

    monkeypatch.setattr("pipelines.jobs.run.connected", connected)
    (tiny,) = (tiny for tiny in TINY_MODELS if tiny.name == "flux-dev")
    path = write_manifest(tmp_path, tiny, outputs={"deltas": True, "fuse": "union"})
    with pytest.raises(SystemExit) as stop:
        main(["erase", str(path), "--store", str(tmp_path / "store")])
    assert stop.value.code == 0


def test_a_mask_that_changes_no_image_fails_loudly(tmp_path: Path) -> None:
    (tiny,) = (tiny for tiny in TINY_MODELS if tiny.name == "sd2")
    pipe = tiny.pipeline()
    # What the feed-forwards give is thrown away, so that pruning them cannot change a thing.
    for name, module in pipe.unet.named_modules():
        if name.endswith("proj_out"):
            torch.nn.init.zeros_(module.weight)
    silent = dataclasses.replace(tiny, build=lambda: pipe)
    prepared = prepare(write_manifest(tmp_path, silent))
    worker = Worker(Store(str(tmp_path / "store")), prepared.model)
    plan = plan_here(prepared)
    units = [*prompts_units(prepared.manifest), *plan.units()]
    for unit in units[:-1]:
        worker.run(unit)
    assert units[-1] == plan.concepts[0].preview_after
    with pytest.raises(NoEffectError, match="changes none of 2 images"):
        worker.run(units[-1])
    assert worker.store.find("preview", units[-1].key) is None


def test_a_scheduler_for_noise_is_refused_by_a_flow_matching_model(tmp_path: Path) -> None:
    (tiny,) = (tiny for tiny in TINY_MODELS if tiny.name == "sd3")
    path = write_manifest(tmp_path, tiny, collection={"scheduler": "DDIMScheduler"})
    with pytest.raises(UserError, match=r"collection\.scheduler: DDIMScheduler"):
        prepare(path)
