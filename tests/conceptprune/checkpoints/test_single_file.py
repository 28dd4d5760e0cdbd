"""Single files under LDM's names: diffusers loads them back as the very same pruned model."""

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    CHECKPOINT_KEY_NAMES,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
)
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from conceptprune.checkpoints.ldm_names import UNET, VAE, unet_tensors, vae_tensors
from conceptprune.checkpoints.single_file import write_single_file
from conceptprune.errors import UserError
from conceptprune.masks.layer_mask import LayerMask
from conceptprune.masks.mask import PruningMask
from conceptprune.models.components import read_index
from conceptprune.models.sites import join_layer
from conceptprune.models.weights import CHECKPOINT_NAMES, component_of, weight_digest
from conceptprune.studio import model_path
from tests.support.tiny_models import TINY_MODELS, TinyModel

pytestmark = pytest.mark.slow

TINY = {tiny.name: tiny for tiny in TINY_MODELS}
FFN = ".ff.net.2"
SD15 = {
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
SDXL = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (320, 640, 1280),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


@pytest.fixture(scope="module", params=["sd1", "sd2", "sdxl", "studio"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of each family that has such files, and the shipped one."""
    if request.param == "studio":
        return model_path()
    return saved(TINY[request.param], tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def sd1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(TINY["sd1"], tmp_path_factory.mktemp("sd1"))


def saved(tiny: TinyModel, folder: Path) -> Path:
    tiny.pipeline().save_pretrained(folder / tiny.name)
    return folder / tiny.name


def some_mask(pipe: DiffusionPipeline, component: str = "unet", ending: str = FFN) -> PruningMask:
    """A third of the entries of each linear whose name ends so."""
    chosen = np.random.default_rng(0)
    layers = {}
    for name, module in component_of(pipe, component).named_modules():
        if isinstance(module, nn.Linear) and name.endswith(ending):
            entries = np.flatnonzero(chosen.random(module.weight.numel()) < 0.3)
            layers[join_layer(component, name, "unet")] = LayerMask(
                shape=tuple(module.weight.shape),  # type: ignore[arg-type]
                entries=entries,
                weight_digest=weight_digest(module.weight),
            )
    return PruningMask(
        concepts=("a",), component="unet", layers=layers, provenance={"model": "tiny"}
    )


def pipeline_class(folder: Path) -> type[DiffusionPipeline]:
    found: type[DiffusionPipeline] = getattr(diffusers, read_index(folder)["_class_name"])
    return found


def load_folder(folder: Path) -> DiffusionPipeline:
    return aligned(pipeline_class(folder).from_pretrained(folder, dtype=torch.float32))


def load_file_again(file: Path, folder: Path) -> DiffusionPipeline:
    """The file's weights, with the folder's configs and nothing else of it."""
    configs = file.parent / "configs"
    shutil.copytree(folder, configs, ignore=shutil.ignore_patterns("*.safetensors"))
    return aligned(
        pipeline_class(folder).from_single_file(
            str(file), config=str(configs), local_files_only=True, dtype=torch.float32
        )
    )


def aligned(pipe: DiffusionPipeline) -> DiffusionPipeline:
    """With weights of its own: where a file's lie off the 64-byte grid, kernels round otherwise."""
    pipe.set_progress_bar_config(disable=True)
    for module in pipe.components.values():
        if isinstance(module, nn.Module):
            for parameter in module.eval().parameters():
                parameter.data = parameter.data.clone()
    return pipe


def image(pipe: DiffusionPipeline) -> np.ndarray[Any, Any]:
    output = pipe(
        "a cat in the style of Ada Bell",
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(1),
        output_type="np",
    )
    generated: np.ndarray[Any, Any] = output.images
    return generated


def keys_of(file: Path) -> dict[str, list[int]]:
    with safe_open(file, framework="pt") as stream:
        return {key: stream.get_slice(key).get_shape() for key in stream.keys()}  # noqa: SIM118


def test_a_single_file_generates_what_the_base_with_the_mask_generates(
    folder: Path, tmp_path: Path
) -> None:
    masked = load_folder(folder)
    untouched = image(masked)
    mask = some_mask(masked)
    write_single_file(mask, folder, tmp_path / "one.safetensors")
    mask.apply(masked)
    expected = image(masked)
    assert not np.array_equal(expected, untouched)
    assert np.array_equal(image(load_file_again(tmp_path / "one.safetensors", folder)), expected)


def test_pruned_text_encoders_are_written_pruned(folder: Path, tmp_path: Path) -> None:
    masked = load_folder(folder)
    encoders = [name for name in masked.components if name.startswith("text_encoder")]
    for encoder in encoders:
        mask = some_mask(masked, encoder, ".mlp.fc2")
        file = tmp_path / encoder / "one.safetensors"
        file.parent.mkdir()
        write_single_file(mask, folder, file)
        mask.apply(masked)
        expected = image(masked)
        mask.remove(masked)
        assert not np.array_equal(expected, image(masked))
        assert np.array_equal(image(load_file_again(file, folder)), expected)


def test_the_file_says_what_it_is_and_equal_masks_give_equal_bytes(
    tmp_path: Path,
) -> None:
    folder = saved(TINY["sd2"], tmp_path)
    mask = some_mask(load_folder(folder))
    for name in ("one", "two"):
        write_single_file(mask, folder, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    with safe_open(tmp_path / "one", framework="pt") as stream:
        header = json.loads(stream.metadata()["conceptprune"])
    assert header["format"] == "conceptprune.single-file/1"
    assert (header["concepts"], header["mask"]) == (["a"], mask.digest)


@pytest.mark.parametrize(
    ("name", "marks"),
    [
        ("sd1", {"v1": 4, "clip": 2}),
        ("sd2", {"open_clip": 2}),
        ("sdxl", {"clip_sdxl": 2, "open_clip_sdxl": 2}),
    ],
)
def test_the_file_has_the_tensors_by_which_programs_tell_the_families(
    name: str, marks: dict[str, int], tmp_path: Path
) -> None:
    folder = saved(TINY[name], tmp_path)
    write_single_file(some_mask(load_folder(folder)), folder, tmp_path / "one")
    keys = keys_of(tmp_path / "one")
    for mark, dimensions in marks.items():
        assert len(keys[CHECKPOINT_KEY_NAMES[mark]]) == dimensions
    assert len(keys[f"{VAE}decoder.mid.attn_1.q.weight"]) == 4
    (projection, *_) = (key for key in keys if key.endswith("1.proj_in.weight"))
    assert len(keys[projection]) == (4 if name == "sd1" else 2)
    assert ("cond_stage_model.transformer.text_model.embeddings.position_ids" in keys) == (
        name == "sd1"
    )
    if name == "sdxl":
        # As OpenCLIP has it: the inner width first.
        assert keys["conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_bias"]
        assert keys["conditioner.embedders.1.model.text_projection"] == [48, 48]


@pytest.mark.parametrize("config", [SD15, SDXL], ids=["sd15", "sdxl"])
def test_every_tensor_of_the_true_unets_goes_there_and_back(config: dict[str, Any]) -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
    state = unet.state_dict()
    tensors = unet_tensors(state, unet.config)
    ldm = {tensor.name: state[tensor.keys[0]] for tensor in tensors}
    assert len(ldm) == len(state) == (686 if config is SD15 else 1680)
    back = convert_ldm_unet_checkpoint(ldm, unet.config)
    assert {key: id(value) for key, value in back.items()} == {
        key: id(value) for key, value in state.items()
    }


def test_every_tensor_of_the_true_vae_goes_there_and_back() -> None:
    with torch.device("meta"):
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
        )
    state = vae.state_dict()
    ldm = {tensor.name: state[tensor.keys[0]] for tensor in vae_tensors(state, vae.config)}
    assert len(ldm) == len(state) == 248
    back = convert_ldm_vae_checkpoint(ldm, vae.config)
    assert {key: value.shape for key, value in back.items()} == {
        key: value.shape for key, value in state.items()
    }


OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def test_names_of_older_files_are_known(tmp_path: Path) -> None:
    # The folder of Stable Diffusion 1.5 on the hub has all of these.
    folder = saved(TINY["sd1"], tmp_path)
    mask = some_mask(load_folder(folder), "text_encoder", ".mlp.fc2")
    write_single_file(mask, folder, tmp_path / "new")
    vae = folder / "vae" / f"{CHECKPOINT_NAMES[0]}.safetensors"
    older = {}
    for key, tensor in load_file(vae).items():
        for new, old in OLD_NAMES.items():
            key = key.replace(f"mid_block.attentions.0.{new}.", f"mid_block.attentions.0.{old}.")
        older[key] = tensor.clone()
    save_file(older, vae)
    encoder = folder / "text_encoder" / "model.safetensors"
    older = {f"text_model.{key}": tensor.clone() for key, tensor in load_file(encoder).items()}
    older["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(older, encoder)
    write_single_file(mask, folder, tmp_path / "old")
    assert (tmp_path / "old").read_bytes() == (tmp_path / "new").read_bytes()


@pytest.mark.parametrize("name", ["sd3", "flux-dev", "pixart-alpha"])
def test_families_without_such_files_say_so(name: str, tmp_path: Path) -> None:
    pipe = TINY[name].pipeline()
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": type(pipe).__name__}))
    mask = PruningMask(concepts=("a",), component="transformer", layers={}, provenance={})
    with pytest.raises(UserError, match=f"{type(pipe).__name__} has no such form"):
        write_single_file(mask, tmp_path, tmp_path / "one")
    assert not (tmp_path / "one").exists()


@pytest.mark.parametrize(
    ("component", "key"),
    [
        ("unet", "encoder_hid_proj.weight"),
        ("unet", "down_blocks.0.resnets.0.norm3.weight"),
        ("unet", "down_blocks.0.downsamplers.0.norm1.weight"),
        ("vae", "decoder.mid_block.attentions.0.to_x.weight"),
        ("vae", "decoder.up_blocks.0.resnets.0.time.weight"),
        ("text_encoder", "text_projection.weight"),
    ],
)
def test_a_tensor_without_a_name_there_is_named_and_never_left_out(
    component: str, key: str, sd1: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(sd1, tmp_path / "model"))
    (path,) = (folder / component).glob("*.safetensors")
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    save_file({**tensors, key: torch.zeros(2)}, path)
    mask = PruningMask(concepts=("a",), component="unet", layers={}, provenance={})
    with pytest.raises(UserError, match=f"no name for {key} of"):
        write_single_file(mask, folder, tmp_path / "one")
    assert not (tmp_path / "one").exists()


def test_a_block_that_only_looks_alike_is_refused() -> None:
    config = {**SD15, "layers_per_block": 2, "down_block_types": ("AttnDownBlock2D",) * 4}
    with pytest.raises(UserError, match="AttnDownBlock2D"):
        unet_tensors(["conv_in.weight"], config)
    with pytest.raises(UserError, match="layers_per_block"):
        unet_tensors(["conv_in.weight"], {**SD15, "layers_per_block": [1, 2, 2, 2]})
    assert unet_tensors(["conv_in.weight"], {**SD15, "layers_per_block": 2})[0].name == (
        f"{UNET}input_blocks.0.0.weight"
    )


def test_an_xl_model_of_velocities_says_so(tmp_path: Path) -> None:
    folder = saved(TINY["sdxl"], tmp_path)
    mask = some_mask(load_folder(folder))
    write_single_file(mask, folder, tmp_path / "noise")
    assert not keys_of(tmp_path / "noise").keys() & {"v_pred", "ztsnr"}
    scheduler = folder / "scheduler" / "scheduler_config.json"
    config = json.loads(scheduler.read_text())
    config |= {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    scheduler.write_text(json.dumps(config))
    write_single_file(mask, folder, tmp_path / "velocity")
    assert keys_of(tmp_path / "velocity").keys() >= {"v_pred", "ztsnr"}
