"""What a pruned pipeline folder holds, and what it must never hold."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from conceptprune.checkpoints.files import delta_file, pipeline_files
from conceptprune.masks.layer_mask import LayerMask
from conceptprune.masks.mask import PruningMask
from conceptprune.models.stable_diffusion import StableDiffusion
from conceptprune.models.weights import read_weights, weight_digest

COMPONENT = StableDiffusion.component
LAYER = "mid_block.attentions.0.transformer_blocks.0.ff.net.2"
KEY = f"{LAYER}.weight"


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, to add files to."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def mask_of(folder: Path) -> PruningMask:
    weight = read_weights(folder / COMPONENT, [LAYER])[LAYER]
    layer = LayerMask(
        shape=(weight.shape[0], weight.shape[1]),
        entries=np.array([0, 3, 70]),
        weight_digest=weight_digest(weight),
    )
    return PruningMask(
        concepts=("a",), component=COMPONENT, layers={LAYER: layer}, provenance={"model": "tiny"}
    )


def test_only_the_masks_entries_change(folder: Path, tmp_path: Path) -> None:
    before = load_file(folder / COMPONENT / "diffusion_pytorch_model.safetensors")
    for name, data in pipeline_files(mask_of(folder), folder):
        path = tmp_path / "out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        if not name.startswith(f"{COMPONENT}/diffusion"):
            assert data == (folder / name).read_bytes()
    after = load_file(tmp_path / "out" / COMPONENT / "diffusion_pytorch_model.safetensors")
    changed = (before[KEY] != after[KEY]).view(-1).nonzero().view(-1)
    assert changed.tolist() == [0, 3, 70]
    assert all(before[key].equal(after[key]) for key in before if key != KEY)


@pytest.mark.parametrize(
    "name",
    [
        f"{COMPONENT}/diffusion_pytorch_model.fp16.safetensors",
        f"{COMPONENT}/diffusion_pytorch_model.non_ema.safetensors",
        "v1-5-pruned-emaonly.safetensors",
        f"{COMPONENT}/diffusion_pytorch_model.bin",
    ],
)
def test_a_second_copy_of_the_weights_is_not_passed_on_unpruned(folder: Path, name: str) -> None:
    shutil.copy(folder / COMPONENT / "diffusion_pytorch_model.safetensors", folder / name)
    assert name not in dict(pipeline_files(mask_of(folder), folder))


def test_equal_masks_give_equal_bytes(folder: Path) -> None:
    mask = mask_of(folder)
    assert delta_file(mask, folder) == delta_file(mask, folder)
    assert dict(pipeline_files(mask, folder)) == dict(pipeline_files(mask, folder))
