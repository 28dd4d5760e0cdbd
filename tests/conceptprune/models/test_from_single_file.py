"""Single-file checkpoints as a manifest's model: converted once, and the same as the folder."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from conceptprune.checkpoints.single_file import write_single_file
from conceptprune.errors import ManifestError, UserError
from conceptprune.manifest import parse_manifest
from conceptprune.manifest.model import source_of
from conceptprune.masks.mask import PruningMask
from conceptprune.models.base import DiffusionModel
from conceptprune.models.families import family_of
from conceptprune.models.from_single_file import converted_folder, converted_from
from conceptprune.models.node_cache import CACHE_VARIABLE
from conceptprune.models.prompt import Prompt
from conceptprune.studio import model_path
from tests.support.tiny_models import TINY_MODELS

NOTHING = PruningMask(concepts=("none",), component="unet", layers={}, provenance={})


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny model of each family that has such files, and the shipped one."""
    root = tmp_path_factory.mktemp("models")
    for tiny in TINY_MODELS[:3]:
        tiny.pipeline().save_pretrained(root / tiny.name)
    return {tiny.name: root / tiny.name for tiny in TINY_MODELS[:3]} | {"studio": model_path()}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def single_file(folder: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The model as a file, and the folder of its configs."""
    write_single_file(NOTHING, folder, tmp_path / "model.safetensors")
    configs = tmp_path / "configs"
    shutil.copytree(folder, configs, ignore=shutil.ignore_patterns("*.safetensors", "*.md"))
    return tmp_path / "model.safetensors", configs


def load(folder: Path) -> DiffusionModel:
    model = family_of(folder).load(folder)
    for module in model.pipe.components.values():
        for parameter in getattr(module, "parameters", list)():
            parameter.data = parameter.data.clone()
    return model


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl", "studio"])
def test_a_file_is_the_same_model_as_its_folder(
    name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = converted_folder(*single_file(folders[name], tmp_path))
    assert converted_from(tmp_path / "model.safetensors") == [folder]
    for path in folders[name].glob("*/*.safetensors"):
        expected, found = load_file(path), load_file(folder / path.relative_to(folders[name]))
        assert expected.keys() == found.keys()
        for key, tensor in expected.items():
            assert tensor.dtype == found[key].dtype
            assert tensor.equal(found[key])
    prompts = [Prompt(text="a cat in the style of Ada Bell", seed=3)]
    drawn = [load(one).draw(prompts, steps=2, guidance=5) for one in (folders[name], folder)]
    assert np.array_equal(*drawn)


def test_a_file_is_converted_once_and_to_the_same_bytes_elsewhere(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, configs = single_file(folders["sd2"], tmp_path)
    folder = converted_folder(file, configs)
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert converted_folder(file, configs) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == written
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "elsewhere"))
    moved = Path(shutil.copy(file, tmp_path / "moved.safetensors"))
    other = converted_folder(moved, configs)
    assert other != folder
    for path in (path for path in folder.rglob("*") if path.is_file()):
        assert path.read_bytes() == (other / path.relative_to(folder)).read_bytes()


def test_a_manifest_names_a_file(folders: dict[str, Path], tmp_path: Path) -> None:
    single_file(folders["sd1"], tmp_path)
    text = (
        "version: 1\nmodel: {file: model.safetensors, config: configs}\n"
        "concepts: [{name: Van Gogh, kind: style}]\n"
    )
    source = source_of(parse_manifest(text, source="m.yaml", folder=tmp_path).model)
    assert source.label == "model.safetensors"
    assert (source.folder() / "model_index.json").is_file()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("{file: a.ckpt, config: b}", r"pickled \.ckpt can run code"),
        ("{file: a.safetensors}", "config.*\n.*\n.*the file has weights only"),
        ("{file: a.safetensors, config: b, folder: c}", "exactly one of builtin, folder, file"),
    ],
)
def test_a_manifest_that_cannot_name_a_file_so_is_refused(model: str, message: str) -> None:
    text = f"version: 1\nmodel: {model}\nconcepts: [{{name: Van Gogh, kind: style}}]\n"
    with pytest.raises(ManifestError, match=message):
        parse_manifest(text, source="m.yaml", folder=Path())


def test_what_is_missing_is_named_and_nothing_is_left_behind(
    folders: dict[str, Path], tmp_path: Path, cache: Path
) -> None:
    file, configs = single_file(folders["sd1"], tmp_path)
    with pytest.raises(UserError, match=r"model.file: .*nowhere is not a file"):
        converted_folder(tmp_path / "nowhere", configs)
    with pytest.raises(UserError, match="hf download"):
        converted_folder(file, tmp_path / "nowhere")
    tensors = load_file(file)
    del tensors["model.diffusion_model.middle_block.0.in_layers.2.weight"]
    lacking = tmp_path / "lacking.safetensors"
    save_file(tensors, lacking)
    for wrong in (lacking, configs / "model_index.json"):
        with pytest.raises(UserError, match=r"model.file: .* cannot be loaded as the StableDiff"):
            converted_folder(wrong, configs)
    assert not [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert converted_from(lacking) == []


def test_configs_of_another_model_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    file, _ = single_file(folders["sd1"], tmp_path)
    with pytest.raises(UserError, match="cannot be loaded as the StableDiffusionXLPipeline"):
        converted_folder(file, folders["sdxl"])


def test_a_safety_checker_in_the_configs_is_left_out(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    file, configs = single_file(folders["sd1"], tmp_path)
    index = configs / "model_index.json"
    entry = '["stable_diffusion", "StableDiffusionSafetyChecker"]'
    lines = index.read_text().replace("null,\n    null", "null, null")
    index.write_text(
        lines.replace('"safety_checker": [\n    null, null\n  ]', f'"safety_checker": {entry}')
    )
    assert entry in index.read_text()
    load(converted_folder(file, configs))
