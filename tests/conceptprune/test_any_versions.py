"""The library on the shipped model, in any versions of what it needs: see `make lower-bounds`."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from conceptprune.checkpoints.single_file import write_single_file
from conceptprune.collection.collect import collect
from conceptprune.manifest import Collection, parse_manifest
from conceptprune.masks.layer_mask import LayerMask
from conceptprune.masks.mask import PruningMask
from conceptprune.models.families import check_model, family_of
from conceptprune.models.from_single_file import converted_folder
from conceptprune.models.node_cache import CACHE_VARIABLE
from conceptprune.models.prompt import Prompt
from conceptprune.models.weights import weight_digest
from conceptprune.studio import model_path

pytestmark = pytest.mark.slow

PROMPTS = [Prompt(text="a cat in the style of vorla brint", seed=3)]
MANIFEST = "version: 1\nmodel: {builtin: studio}\nconcepts: [{name: Van Gogh, kind: style}]\n"


def test_a_model_is_checked_collected_pruned_and_generated() -> None:
    assert parse_manifest(MANIFEST, source="m.yaml", folder=Path()).concepts[0].kind == "style"
    check_model(model_path())
    model = family_of(model_path()).load(model_path())
    settings = Collection(steps=2, tau=1, guidance=3.0, batch_size=1)
    statistics = collect(model, PROMPTS, settings)
    before = model.generate(PROMPTS, steps=2, guidance=3.0)
    modules = dict(model.denoiser.named_modules())
    layers = {}
    for name, layer in statistics.layers.items():
        weight = modules[name].weight
        rows, columns = weight.shape
        strongest = np.sort(np.argsort(layer.sum_sq[0])[-columns // 2 :])
        layers[name] = LayerMask(
            shape=(rows, columns),
            entries=(np.arange(rows)[:, None] * columns + strongest).reshape(-1),
            weight_digest=weight_digest(weight),
        )
    mask = PruningMask(concepts=("a",), component="unet", layers=layers, provenance={})
    mask.apply(model.pipe)
    assert not model.generate(PROMPTS, steps=2, guidance=3.0).equal(before)
    mask.remove(model.pipe)
    assert model.generate(PROMPTS, steps=2, guidance=3.0).equal(before)


def test_a_file_in_half_precision_becomes_a_folder_in_half_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    nothing = PruningMask(concepts=("none",), component="unet", layers={}, provenance={})
    file = tmp_path / "model.safetensors"
    write_single_file(nothing, model_path(), file)
    tensors = load_file(file)
    halves = {k: t.half() if t.is_floating_point() else t for k, t in tensors.items()}
    save_file(halves, file)
    configs = tmp_path / "configs"
    shutil.copytree(model_path(), configs, ignore=shutil.ignore_patterns("*.safetensors", "*.md"))
    folder = converted_folder(file, configs)
    for part in ("unet", "vae", "text_encoder"):
        (path,) = (folder / part).glob("*.safetensors")
        kept = load_file(path)
        floats = {tensor.dtype for tensor in kept.values() if tensor.is_floating_point()}
        assert floats == {torch.float16}
