"""`conceptprune baseline`: every method writes an ordinary delta, or says why it does not."""

import json
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from conceptprune.baselines.controls import unpruned
from conceptprune.masks.mask import PruningMask
from pipelines.cli import main
from tests.pipelines.conftest import write_manifest

UNET = Path("unet") / "diffusion_pytorch_model.safetensors"
SITE = "ff.net.2.weight"
METHODS = {
    "uce": ["--tokens", "rest", "--guide", "photo"],
    "rece": ["--epochs", "2", "--preserve", "cat"],
    "speed": ["--preserve", "cat", "--threshold", "1"],
    "random": ["--density", "0.05", "--seed", "3"],
    "magnitude": ["--density", "0.05"],
}

Run = Callable[..., Path]


@pytest.fixture(scope="module")
def manifest(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("manifest") / "tiny.yaml"
    concepts = [{"name": "Ada Bell", "kind": "style"}, {"name": "Cy Dow", "kind": "style"}]
    retain = [{"name": "Cy Dow", "kind": "style"}, {"name": "Eve | `x`", "kind": "style"}]
    return write_manifest(path, tiny_folder, concepts=concepts, retain=retain)


def baseline(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["baseline", *map(str, arguments)])
    return int(stop.value.code or 0)


def refused(capsys: pytest.CaptureFixture[str], out: Path, *arguments: object) -> str:
    """The message of a command that must fail and write nothing."""
    before = sorted(out.parent.iterdir())
    assert baseline(*arguments, "--out", out) == 2
    assert sorted(out.parent.iterdir()) == before
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return message


@pytest.fixture(scope="module")
def made(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder that each method wrote, by method."""
    folder = tmp_path_factory.mktemp("made")
    for method, options in METHODS.items():
        assert baseline(method, manifest, "--out", folder / method, *options) == 0
    return {method: folder / method for method in METHODS}


@pytest.fixture(scope="module")
def base(tiny_folder: Path) -> dict[str, Tensor]:
    return load_file(tiny_folder / UNET)


@pytest.mark.parametrize("method", METHODS)
def test_a_delta_loads_and_changes_the_tensors_it_names_and_no_other(
    method: str,
    made: dict[str, Path],
    base: dict[str, Tensor],
    tiny_pipe: StableDiffusionPipeline,
) -> None:
    delta = load_file(made[method] / "delta.safetensors")
    found = tiny_pipe.unet.load_state_dict(delta, strict=False)
    assert not found.unexpected_keys
    after = tiny_pipe.unet.state_dict()
    assert {name for name in base if not base[name].equal(after[name])} == set(delta)
    ends = {"random": (SITE,), "magnitude": (SITE,), "speed": ("to_v.weight",)}.get(
        method, ("to_k.weight", "to_v.weight")
    )
    assert all(name.endswith(ends) for name in delta)
    if ends == (SITE,):
        assert all(
            round(0.05 * tensor.numel()) == int((tensor == 0).sum()) for tensor in delta.values()
        )
    else:
        projections = 1 if method == "speed" else 2
        assert len(delta) == projections * sum(name.endswith("attn2.to_k.weight") for name in base)


@pytest.mark.parametrize("method", METHODS)
def test_metadata_and_card_say_what_was_done_to_which_model(
    method: str, made: dict[str, Path], tiny_folder: Path
) -> None:
    metadata = json.loads((made[method] / "conceptprune.json").read_text())
    with safe_open(made[method] / "delta.safetensors", framework="pt") as stream:
        header = json.loads(stream.metadata()["conceptprune"])
        assert sorted(metadata["tensors"]) == sorted(stream.keys())
    assert header["format"] == "conceptprune.delta/1"
    assert header["concepts"] == metadata["concepts"] == ["Ada Bell", "Cy Dow"]
    assert header["component"] == metadata["component"] == "unet"
    assert header["provenance"]["method"] == metadata["method"] == method
    assert metadata["model"] == tiny_folder.name
    assert header["provenance"]["settings"] == metadata["settings"]
    assert (header["mask"] is None) == (method in ("uce", "rece", "speed"))
    card = (made[method] / "README.md").read_text()
    assert "Ada Bell" in card
    assert metadata["model_digest"] in card
    assert ("A control" in card) == (method in ("random", "magnitude"))
    assert 'load_file("delta.safetensors")' in card


def test_what_is_retained_and_not_erased_is_preserved(made: dict[str, Path]) -> None:
    uce, rece, speed = (
        json.loads((made[method] / "conceptprune.json").read_text())
        for method in ("uce", "rece", "speed")
    )
    assert uce["settings"]["preserve"] == ["Eve | `x`"]
    assert rece["settings"]["preserve"] == ["Eve | `x`", "", "cat"]
    assert speed["settings"]["preserve"] == ["Eve | `x`", "cat"]
    assert uce["settings"]["guides"] == ["photo", "photo"]
    assert rece["settings"]["guides"] == ["art", "art"]


@pytest.mark.parametrize("method", ["rece", "random"])
def test_the_same_command_writes_the_same_bytes(
    method: str, made: dict[str, Path], manifest: Path, tmp_path: Path
) -> None:
    assert baseline(method, manifest, "--out", tmp_path / "again", *METHODS[method]) == 0
    for path in made[method].iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_a_control_takes_as_many_weights_of_each_layer_as_a_mask(
    manifest: Path, base: dict[str, Tensor], tmp_path: Path
) -> None:
    site = {name.removesuffix(".weight"): base[name] for name in base if name.endswith(SITE)}
    layers = {
        name: replace(layer, entries=np.arange(index))
        for index, (name, layer) in enumerate(unpruned(site, dict.fromkeys(site, 0)).items())
    }
    mask = PruningMask(concepts=("x",), component="unet", layers=layers, provenance={})
    mask.save(tmp_path / "like.safetensors")
    out = tmp_path / "out"
    assert baseline("random", manifest, "--out", out, "--like", tmp_path / "like.safetensors") == 0
    delta = load_file(out / "delta.safetensors")
    taken = {name: int((tensor == 0).sum()) for name, tensor in delta.items()}
    assert taken == {
        f"{name}.weight": len(m.entries) for name, m in layers.items() if len(m.entries)
    }


@pytest.fixture
def trained(base: dict[str, Tensor]) -> dict[str, Tensor]:
    """What ESD's training leaves of cross-attention, by parameter name."""
    return {name: tensor + 1 for name, tensor in base.items() if "attn2.to_v" in name}


@pytest.mark.parametrize("form", ["safetensors", "by module", "whole unet"])
def test_each_of_esds_forms_becomes_the_same_delta(
    form: str, trained: dict[str, Tensor], base: dict[str, Tensor], manifest: Path, tmp_path: Path
) -> None:
    path = tmp_path / ("esd.safetensors" if form == "safetensors" else "esd.pt")
    match form:
        case "safetensors":
            save_file({name: tensor.bfloat16() for name, tensor in trained.items()}, path)
            trained = {name: tensor.bfloat16().float() for name, tensor in trained.items()}
        case "by module":
            torch.save(
                {f"unet.{n.removesuffix('.weight')}": {"weight": t} for n, t in trained.items()},
                path,
            )
        case _:
            torch.save({**base, **trained}, path)
    assert baseline("esd", path, manifest, "--out", tmp_path / "out") == 0
    delta = load_file(tmp_path / "out" / "delta.safetensors")
    assert delta.keys() == trained.keys()
    assert all(delta[name].equal(trained[name]) for name in trained)


class Trap:
    """A pickle that makes a folder when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_a_checkpoint_that_would_run_code_is_refused_and_does_not(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, sprung = tmp_path / "esd.pt", tmp_path / "sprung"
    for save in (torch.save, lambda content, where: where.write_bytes(pickle.dumps(content))):
        save({"a": Trap(sprung)}, path)
        message = refused(capsys, tmp_path / "out", "esd", path, manifest)
        assert "not a file of tensors alone" in message
        assert not sprung.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"nowhere.weight": torch.ones(2)}, "no parameter 'nowhere.weight'"),
        ({"model.diffusion_model.out.weight": torch.ones(2)}, "convert it first"),
        ({"conv_in.weight": torch.ones(2)}, "made for another one"),
        ({"conv_in.weight": 3}, "is a int, not a tensor"),
        ([torch.ones(2)], "holds a list"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(
    content: object,
    message: str,
    manifest: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    torch.save(content, tmp_path / "esd.pt")
    assert message in refused(capsys, tmp_path / "out", "esd", tmp_path / "esd.pt", manifest)


def test_a_checkpoint_that_changes_nothing_is_refused(
    base: dict[str, Tensor], manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file(base, tmp_path / "esd.safetensors")
    message = refused(capsys, tmp_path / "out", "esd", tmp_path / "esd.safetensors", manifest)
    assert "nothing was erased" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["uce", "MANIFEST", "--lamb", "0"], "--lamb 0"),
        (["uce", "MANIFEST", "--tokens", "first"], "last, rest, all"),
        (["uce", "MANIFEST", *["--guide", "x"] * 3], "3 were given for 2 concepts"),
        (["rece", "MANIFEST", "--epochs", "0"], "--epochs 0"),
        (["uce", "missing.yaml"], "missing.yaml"),
        (["speed", "MANIFEST", "--threshold", "0"], "--threshold 0"),
        (["random", "MANIFEST"], "either --density or --like"),
        (["random", "MANIFEST", "--density", "0.1", "--like", "m"], "either --density or --like"),
        (["magnitude", "MANIFEST", "--density", "2"], "--density 2"),
        (["magnitude", "MANIFEST", "--like", "missing.safetensors"], "missing.safetensors"),
        (["esd", "missing.pt", "MANIFEST"], "missing.pt"),
    ],
)
def test_bad_input_exits_2_with_one_message_and_writes_nothing(
    arguments: list[str],
    message: str,
    manifest: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [str(manifest) if word == "MANIFEST" else word for word in arguments]
    assert message in refused(capsys, tmp_path / "out", *given)


def test_a_concept_that_has_no_name_to_edit_is_refused(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    concept = {"name": "the captions", "kind": "memorised", "captions": ["a cat"]}
    manifest = write_manifest(tmp_path / "m.yaml", tiny_folder, concepts=[concept])
    message = refused(capsys, tmp_path / "out", "uce", manifest)
    assert "concepts[0] of kind memorised" in message


def test_a_folder_in_use_is_left_alone(
    made: dict[str, Path], manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.read_bytes() for path in made["uce"].iterdir()}
    assert baseline("uce", manifest, "--out", made["uce"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in made["uce"].iterdir()} == before
