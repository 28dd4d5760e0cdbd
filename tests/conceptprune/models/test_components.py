"""A model folder that lacks something is refused, beforehand and by every loader, by name."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from conceptprune.errors import UserError
from conceptprune.models.families import check_model, family_of
from conceptprune.models.weights import find_checkpoint
from tests.support.tiny_models import TINY_MODELS

pytestmark = pytest.mark.slow

TINY = {tiny.name: tiny for tiny in TINY_MODELS}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A tiny model's folder by name, saved once."""
    root = tmp_path_factory.mktemp("saved")

    def folder(name: str) -> Path:
        if not (root / name).exists():
            TINY[name].pipeline().save_pretrained(root / name)
        return root / name

    return folder


@pytest.fixture
def copied(saved: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of it to spoil."""
    return lambda name: Path(shutil.copytree(saved(name), tmp_path / name))


def without(file: Path, part: str) -> str:
    """Take tensors out of a file; the name of the first."""
    tensors = load_file(file)
    lost = sorted(name for name in tensors if part in name)
    save_file({name: tensors[name] for name in tensors.keys() - set(lost)}, file, {"format": "pt"})
    return lost[0]


LOST = [
    ("sd2", "text_encoder/model.safetensors", "layers.1.mlp.fc1"),
    ("sd2", "unet/diffusion_pytorch_model.safetensors", "mid_block.resnets.0.conv1"),
    ("sd2", "vae/diffusion_pytorch_model.safetensors", "decoder.conv_out"),
    ("sdxl", "text_encoder_2/model.safetensors", "text_projection"),
    ("sd3", "text_encoder_3/model.safetensors", "block.1.layer.0.SelfAttention.q"),
]


@pytest.mark.parametrize(("name", "file", "part"), LOST, ids=lambda value: str(value))
def test_a_folder_that_lacks_a_tensor_is_refused_by_the_check_and_by_the_loader(
    copied: Callable[[str], Path], name: str, file: str, part: str
) -> None:
    folder = copied(name)
    check_model(folder)
    lost = without(folder / file, part)
    for refuse in (check_model, lambda folder: family_of(folder).load(folder)):
        with pytest.raises(UserError) as error:
            refuse(folder)
        assert file in str(error.value)
        assert lost.removeprefix("text_model.") in str(error.value)
        assert "\n" not in str(error.value)


def test_a_file_changed_since_it_was_right_is_checked_again_whatever_its_size_and_time(
    copied: Callable[[str], Path],
) -> None:
    folder = copied("sd2")
    check_model(folder)
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    data, times = file.read_bytes(), file.stat()
    file.write_bytes(data.replace(b'"conv_in.weight"', b'"conv_on.weight"'))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert file.stat().st_size == times.st_size
    with pytest.raises(UserError, match=r"no tensor conv_in\.weight"):
        check_model(folder)
    file.write_bytes(data)
    check_model(folder)


def test_tied_weights_that_a_file_has_once_are_not_missing(copied: Callable[[str], Path]) -> None:
    folder = copied("sd3")
    file = folder / "text_encoder_3" / "model.safetensors"
    tensors = load_file(file)
    tied = {"shared.weight", "encoder.embed_tokens.weight"}
    kept = sorted(tied & tensors.keys())[:1]
    assert kept
    save_file(
        {name: tensors[name] for name in tensors.keys() - tied | set(kept)}, file, {"format": "pt"}
    )
    check_model(folder)


def test_names_as_older_versions_wrote_them_are_not_missing(
    copied: Callable[[str], Path],
) -> None:
    folder = copied("sd2")
    file = folder / "text_encoder" / "model.safetensors"
    older = {
        f"text_model.{name.removeprefix('text_model.')}": t for name, t in load_file(file).items()
    }
    older["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(older, file, {"format": "pt"})
    vae = folder / "vae" / "diffusion_pytorch_model.safetensors"
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = {}
    for name, tensor in load_file(vae).items():
        for new, old in names.items():
            if ".attentions." in name:
                name = name.replace(f".{new}.", f".{old}.")
        tensors[name] = tensor
    save_file(tensors, vae, {"format": "pt"})
    check_model(folder)
    family_of(folder).load(folder)


def test_a_model_saved_with_its_adapter_is_told_the_way_out(copied: Callable[[str], Path]) -> None:
    folder = copied("sd2")
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    save_file(
        {name.replace("to_q.", "to_q.base_layer."): t for name, t in load_file(file).items()}, file
    )
    with pytest.raises(UserError, match=r"to_q\.weight.*base_layer.*unload_lora_weights\(\)"):
        check_model(folder)


def test_a_tensor_of_another_shape_is_named_with_both_shapes(
    copied: Callable[[str], Path],
) -> None:
    folder = copied("sd2")
    for file, part in (
        ("text_encoder/model.safetensors", "layers.1.mlp.fc1.weight"),
        ("unet/diffusion_pytorch_model.safetensors", "conv_in.weight"),
    ):
        tensors = load_file(folder / file)
        (name,) = (name for name in tensors if name.endswith(part))
        whole = tensors[name]
        save_file({**tensors, name: whole[:5].clone()}, folder / file, {"format": "pt"})
        with pytest.raises(UserError, match=rf"{file}.*is \[5, .*calls for \[{len(whole)}, "):
            check_model(folder)
        save_file(tensors, folder / file, {"format": "pt"})


def test_a_quantised_component_is_refused(copied: Callable[[str], Path]) -> None:
    config = copied("sd2") / "unet" / "config.json"
    content = json.loads(config.read_text())
    content["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    config.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"unet/config\.json: quantization_config"):
        check_model(config.parent.parent)


def test_a_file_cut_short_and_a_lost_shard_are_named(copied: Callable[[str], Path]) -> None:
    folder = copied("sd2")
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"unet/diffusion_pytorch_model\.safetensors is damaged"):
        check_model(folder)
    file.unlink()
    index = {"weight_map": {"a": "diffusion_pytorch_model-00001-of-00002.safetensors"}}
    file.with_name("diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"index\.json names .*00001-of-00002.*not there"):
        check_model(folder)


def test_text_encoders_that_are_read_again_are_checked_again(
    copied: Callable[[str], Path],
) -> None:
    folder = copied("sd2")
    model = family_of(folder).load(folder, offload="encoders")
    model.encode("a cat")
    assert model._residency is not None
    model._residency.begin_denoising()
    lost = without(folder / "text_encoder" / "model.safetensors", "layers.1.mlp.fc1")
    with pytest.raises(UserError, match=lost.removeprefix("text_model.")):
        model.encode("a dog")


@pytest.mark.parametrize("sharded", [False, True])
def test_a_variant_is_used_where_there_is_nothing_else(
    saved: Callable[[str], Path], tmp_path: Path, sharded: bool
) -> None:
    pipe = TINY["sd2"].pipeline().to(torch.float16)
    size = {"max_shard_size": "60KB"} if sharded else {}
    pipe.save_pretrained(tmp_path / "model", variant="fp16", **size)
    checkpoint = find_checkpoint(tmp_path / "model" / "unet")
    assert checkpoint.variant == "fp16"
    assert (len(checkpoint.files) > 1) == sharded
    check_model(tmp_path / "model")
    model = family_of(tmp_path / "model").load(tmp_path / "model")
    plain = load_file(saved("sd2") / "unet" / "diffusion_pytorch_model.safetensors")
    for name, tensor in model.denoiser.state_dict().items():
        assert tensor.equal(plain[name].half().float())


def test_several_variants_without_a_plain_checkpoint_are_refused_by_name(tmp_path: Path) -> None:
    for variant in ("fp16", "non_ema"):
        save_file({"a": torch.zeros(1)}, tmp_path / f"model.{variant}.safetensors")
    with pytest.raises(UserError, match=r"model\.fp16\.safetensors, model\.non_ema\.safetensors"):
        find_checkpoint(tmp_path)


def test_pickles_are_only_spoken_of_where_there_are_some(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="copied whole") as error:
        find_checkpoint(tmp_path)
    assert "pickled" not in str(error.value)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"pickled checkpoints \(pytorch_model\.bin\)"):
        find_checkpoint(tmp_path)
