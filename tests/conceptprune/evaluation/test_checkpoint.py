"""What `--of` may name, and that a model has every byte back after each of them."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from diffusers import StableDiffusionPipeline
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from conceptprune.checkpoints.delta import Delta, applied, load_edit
from conceptprune.checkpoints.files import delta_file, pipeline_files
from conceptprune.errors import ModelMismatchError, UserError
from conceptprune.evaluation.checkpoint import (
    Asked,
    images_identity,
    parse_of,
)
from conceptprune.masks.layer_mask import LayerMask
from conceptprune.masks.mask import PruningMask
from conceptprune.models.stable_diffusion import StableDiffusion
from conceptprune.models.weights import read_layers, weight_digest


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("base", Asked(label=None, kind="base", value="")),
        ("as it is=base", Asked(label="as it is", kind="base", value="")),
        ("mask:Van Gogh", Asked(label=None, kind="mask", value="Van Gogh")),
        ("ours=mask:a=b.safetensors", Asked(label="ours", kind="mask", value="a=b.safetensors")),
        ("folder:C:/models/x", Asked(label=None, kind="folder", value="C:/models/x")),
    ],
)
def test_a_checkpoint_is_named_by_kind_and_value_with_an_optional_label(
    text: str, asked: Asked
) -> None:
    assert parse_of(text) == asked


@pytest.mark.parametrize("text", ["", "mask", "mask:", "base:x", "=base", "lora:x", "x=y=z"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"mask:FILE-OR-CONCEPT"):
        parse_of(text)


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> StableDiffusion:
    return StableDiffusion(
        StableDiffusionPipeline.from_pretrained(tiny_folder, torch_dtype=torch.float32)
    )


@pytest.fixture
def untouched(model: StableDiffusion) -> Iterator[dict[str, Tensor]]:
    """The model's tensors; after the test it must have them again."""
    before = {name: tensor.clone() for name, tensor in tensors(model).items()}
    yield before
    after = tensors(model)
    assert before.keys() == after.keys()
    assert all(before[name].equal(after[name]) for name in before)


def tensors(model: StableDiffusion) -> dict[str, Tensor]:
    parts = {"unet": model.pipe.unet, "text_encoder": model.pipe.text_encoder}
    return {
        f"{part}.{name}": tensor
        for part, module in parts.items()
        for name, tensor in module.state_dict().items()
    }


def mask_of(model: StableDiffusion, site: str) -> PruningMask:
    """A mask of every third weight of a site."""
    layers = {}
    for name, site_linear in model.site_linears([site]).items():
        weight = site_linear.linear.weight.detach()
        layers[name] = LayerMask(
            shape=(weight.shape[0], weight.shape[1]),
            entries=np.arange(0, weight.numel(), 3),
            weight_digest=weight_digest(weight),
        )
    return PruningMask(concepts=("Ada Bell",), component="unet", layers=layers, provenance={})


@pytest.mark.parametrize("site", ["ffn_out", "text_ffn"])
@pytest.mark.parametrize("kind", ["mask", "delta"])
def test_an_edit_changes_its_weights_only_and_gives_every_byte_back_even_after_an_error(
    model: StableDiffusion,
    untouched: dict[str, Tensor],
    tiny_folder: Path,
    site: str,
    kind: str,
) -> None:
    mask = mask_of(model, site)
    data = mask.to_bytes() if kind == "mask" else delta_file(mask, tiny_folder)
    edit = load_edit(kind, data, tiny_folder)  # type: ignore[arg-type]
    part = "unet" if site == "ffn_out" else "text_encoder"
    encoded = []

    def fail_with_the_edit() -> None:
        with applied(model, edit):
            changed = {
                name for name, tensor in tensors(model).items() if not tensor.equal(untouched[name])
            }
            assert changed == {f"{part}.{name}.weight" for name in mask.of_component(part)}
            encoded.append(model.encode("a cat")["encoder_hidden_states"].clone())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_with_the_edit()
    again = model.encode("a cat")["encoder_hidden_states"]
    # What was encoded with the edit does not stay behind.
    assert encoded[0].equal(again) == (site == "ffn_out")


def test_names_that_begin_with_the_component_mean_the_same(
    model: StableDiffusion, untouched: dict[str, Tensor], tiny_folder: Path
) -> None:
    name = "unet.conv_out.bias"
    new = untouched[name] + 1
    short = safetensors.torch.save({"conv_out.bias": new})
    long = safetensors.torch.save({name: new})
    for data in (short, long):
        with applied(model, Delta.from_bytes(data, tiny_folder)):
            assert tensors(model)[name].equal(new)


@pytest.mark.parametrize(
    ("tensors_of", "found"),
    [
        ({"conv_out.bias": torch.zeros(3)}, r"unet.conv_out.bias is \[3\]"),
        ({"model.diffusion_model.out.2.bias": torch.zeros(4)}, "no such parameter"),
    ],
)
def test_a_delta_for_another_model_is_refused(
    tiny_folder: Path, tensors_of: dict[str, Tensor], found: str
) -> None:
    with pytest.raises(ModelMismatchError, match=found):
        Delta.from_bytes(safetensors.torch.save(tensors_of), tiny_folder)


@pytest.mark.parametrize("data", [b"", b"\x80\x04pickle", safetensors.torch.save({})])
def test_what_is_no_file_of_tensors_is_refused(tiny_folder: Path, data: bytes) -> None:
    with pytest.raises(UserError, match="safetensors"):
        Delta.from_bytes(data, tiny_folder)


TEXT_MODEL = "text_model."


def other_form(name: str) -> str:
    """What other versions of transformers call a parameter of CLIP's text encoder."""
    bare = name.removeprefix(TEXT_MODEL)
    return TEXT_MODEL + name if bare == name else bare


@pytest.fixture(scope="module")
def published_folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with its text encoder's file under the other names."""
    folder = tmp_path_factory.mktemp("published") / "model"
    shutil.copytree(tiny_folder, folder)
    file = folder / "text_encoder" / "model.safetensors"
    found = safetensors.torch.load_file(file)
    safetensors.torch.save_file(
        {other_form(name): tensor for name, tensor in found.items()}, file, {"format": "pt"}
    )
    return folder


@pytest.mark.parametrize("mask_names", ["live", "other"])
def test_masks_and_deltas_of_text_encoders_fit_under_either_names(
    model: StableDiffusion,
    untouched: dict[str, Tensor],
    tiny_folder: Path,
    published_folder: Path,
    mask_names: str,
) -> None:
    mask = mask_of(model, "text_ffn")
    expected = list(mask.of_component("text_encoder"))
    if mask_names == "other":
        layers = {
            "text_encoder/" + other_form(name.partition("/")[2]): layer
            for name, layer in mask.layers.items()
        }
        mask = replace(mask, layers=layers)
    for folder in (tiny_folder, published_folder):
        weights = read_layers(folder, mask.layers, "unet")
        assert all(layer.fits(weights[name]) for name, layer in mask.layers.items())
        written = delta_file(mask, folder)
        for edit in (mask, load_edit("delta", written, folder)):
            with applied(model, edit):
                assert {
                    name
                    for name, tensor in tensors(model).items()
                    if not tensor.equal(untouched[name])
                } == {f"text_encoder.{name}.weight" for name in expected}
        (pruned,) = (
            safetensors.torch.load(data)
            for name, data in pipeline_files(mask, folder)
            if name == "text_encoder/model.safetensors"
        )
        assert sum(
            int((tensor == 0).sum()) >= tensor.numel() // 3 for tensor in pruned.values()
        ) >= (len(mask.layers))


def test_the_decoder_is_part_of_what_decides_images(tiny_folder: Path, tmp_path: Path) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(tiny_folder, torch_dtype=torch.float32)
    with torch.no_grad():
        pipe.vae.decoder.conv_out.bias += 1
    pipe.save_pretrained(tmp_path / "other")
    assert images_identity(tmp_path / "other") != images_identity(tiny_folder)


def crafted(kind: str) -> bytes:
    weight = {"down_blocks.0.weight": torch.zeros(2, 2)}
    good = {
        "format": "conceptprune.delta/1",
        "component": "unet",
        "concepts": ["x"],
        "mask": None,
        "provenance": {},
    }

    def saying(**changes: object) -> bytes:
        return safetensors.torch.save(weight, {"conceptprune": json.dumps({**good, **changes})})

    match kind:
        case "zeros":
            return bytes(1_000_000)
        case "empty":
            return b""
        case "long header":
            return b"\xff" * 16
        case "list for a header":
            return (2).to_bytes(8, "little") + b"[]"
        case "deep header":
            return (200_000).to_bytes(8, "little") + b"[" * 200_000
        case "integers":
            return safetensors.torch.save({"a.weight": torch.zeros(2, dtype=torch.int8)})
        case "nan":
            return safetensors.torch.save({"a.weight": torch.tensor([float("nan")])})
        case "metadata is no JSON":
            return safetensors.torch.save(weight, {"conceptprune": "{"})
        case "metadata is a list":
            return safetensors.torch.save(weight, {"conceptprune": "[]"})
        case "concepts of numbers":
            return saying(concepts=[1])
        case "another format":
            return saying(format="conceptprune.delta/9")
        case "component of a path":
            return saying(component="../../etc")
    return saying(extra=1)


@pytest.mark.parametrize(
    "kind",
    [
        "zeros",
        "empty",
        "long header",
        "list for a header",
        "deep header",
        "integers",
        "nan",
        "metadata is no JSON",
        "metadata is a list",
        "concepts of numbers",
        "another format",
        "component of a path",
        "unknown field",
    ],
)
def test_a_crafted_delta_is_refused_in_one_line(kind: str, tiny_folder: Path) -> None:
    with pytest.raises(UserError) as refused:
        Delta.from_bytes(crafted(kind), tiny_folder)
    assert len(str(refused.value).splitlines()) == 1


@given(place=st.integers(0, 400), value=st.integers(0, 255), cut=st.integers(0, 400))
def test_a_delta_with_changed_or_missing_bytes_is_read_or_refused_and_nothing_else(
    tiny_folder: Path, place: int, value: int, cut: int
) -> None:
    data = bytearray(
        safetensors.torch.save(
            {"conv_in.bias": torch.zeros(32)}, {"conceptprune": '{"format":"conceptprune.delta/1"}'}
        )
    )
    data[place % len(data)] = value
    with contextlib.suppress(UserError):
        Delta.from_bytes(bytes(data[: len(data) - cut % 3]), tiny_folder)
