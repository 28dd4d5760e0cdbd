"""Single-file checkpoints as a manifest's model: converted once, and the same as the folder."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import (
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
)
from safetensors.torch import load_file, save_file

from conceptprune.checkpoints.single_file import write_single_file
from conceptprune.errors import ManifestError, UserError
from conceptprune.manifest import parse_manifest
from conceptprune.masks.mask import PruningMask
from conceptprune.models.base import DiffusionModel
from conceptprune.models.families import family_of
from conceptprune.models.from_single_file import converted_folder, converted_from
from conceptprune.models.node_cache import CACHE_VARIABLE
from conceptprune.models.prompt import Prompt
from tests.support.tiny_models import NOISE, TINY_MODELS

pytestmark = pytest.mark.slow

TINY = {tiny.name: tiny for tiny in TINY_MODELS}
NOTHING = PruningMask(concepts=("none",), component="unet", layers={}, provenance={})


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny model of each family that has such files."""
    root = tmp_path_factory.mktemp("models")
    for tiny in TINY_MODELS[:3]:
        tiny.pipeline().save_pretrained(root / tiny.name)
    return {tiny.name: root / tiny.name for tiny in TINY_MODELS[:3]}


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


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl"])
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
    generated = [
        load(one).generate(prompts, steps=2, guidance=5) for one in (folders[name], folder)
    ]
    assert np.array_equal(*generated)


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
    source = parse_manifest(text, source="m.yaml", folder=tmp_path).model
    assert source.label == "model.safetensors"
    assert (source.local_folder() / "model_index.json").is_file()


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
    with pytest.raises(UserError, match=r"model.file: .* cannot be loaded as the StableDiff"):
        converted_folder(lacking, configs)
    with pytest.raises(UserError, match=r"model_index\.json is not a safetensors file"):
        converted_folder(configs / "model_index.json", configs)
    assert not [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert converted_from(lacking) == []


def test_configs_of_another_model_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    file, _ = single_file(folders["sd1"], tmp_path)
    with pytest.raises(UserError, match=r"has no text_encoder: .*conditioner\.embedders\.0\."):
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


def velocity(**config: Any) -> EulerDiscreteScheduler:
    return EulerDiscreteScheduler(**NOISE, prediction_type="v_prediction", **config)


def playground() -> EDMDPMSolverMultistepScheduler:
    return EDMDPMSolverMultistepScheduler(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5)


CHANNELS = {
    "latents_mean": [-1.6, 1.9, -1.4, 2.5],
    "latents_std": [8.5, 5.9, 6.5, 5.2],
    "scaling_factor": 0.5,
}


XlFolder = Callable[..., Path]


@pytest.fixture
def xl_folder(folders: dict[str, Path]) -> XlFolder:
    """Makes a folder of the tiny SDXL with another scheduler, and other settings of its VAE."""

    def make(folder: Path, scheduler: Any, vae: dict[str, Any] | None = None) -> Path:
        shutil.copytree(folders["sdxl"], folder)
        scheduler.save_pretrained(folder / "scheduler")
        change(folder / "model_index.json", scheduler=["diffusers", type(scheduler).__name__])
        change(folder / "vae" / "config.json", **(vae or {}))
        return folder

    return make


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def written(folder: Path) -> set[str]:
    """Those tensors of a single file by which programs tell how its model is sampled."""
    file = folder.with_suffix(".safetensors")
    write_single_file(NOTHING, folder, file)
    return {name for name in load_file(file) if name.startswith(("edm", "v_pred", "ztsnr"))}


def test_a_file_says_how_its_model_is_sampled(xl_folder: XlFolder, tmp_path: Path) -> None:
    noise = EulerDiscreteScheduler(**NOISE)
    cosine = EDMEulerScheduler(sigma_data=1.0, sigma_max=120.0, prediction_type="v_prediction")
    assert written(xl_folder(tmp_path / "noise", noise)) == set()
    assert written(xl_folder(tmp_path / "v", velocity())) == {"v_pred"}
    snr = velocity(rescale_betas_zero_snr=True)
    assert written(xl_folder(tmp_path / "snr", snr)) == {"v_pred", "ztsnr"}
    edm = {"edm_vpred.sigma_max", "edm_vpred.sigma_min"}
    assert written(xl_folder(tmp_path / "cosine", cosine)) == edm
    assert load_file(tmp_path / "cosine.safetensors")["edm_vpred.sigma_max"].item() == 120
    assert written(xl_folder(tmp_path / "edm", playground(), CHANNELS)) == {"edm_mean", "edm_std"}
    told = load_file(tmp_path / "edm.safetensors")
    assert told["edm_mean"].flatten().tolist() == pytest.approx(CHANNELS["latents_mean"])
    assert told["edm_std"].flatten().tolist() == pytest.approx(CHANNELS["latents_std"])


@pytest.mark.parametrize(
    ("scheduler", "vae"),
    [
        (playground(), {}),
        (playground(), {**CHANNELS, "scaling_factor": 0.13}),
        (EDMEulerScheduler(sigma_max=120.0), CHANNELS),
        (EDMEulerScheduler(prediction_type="v_prediction", sigma_data=0.5), {}),
        (EulerDiscreteScheduler(**NOISE), CHANNELS),
        (EulerDiscreteScheduler(**NOISE, prediction_type="sample"), {}),
    ],
    ids=["no channels", "another scale", "other noise", "sigma data", "channels", "sample"],
)
def test_what_a_file_cannot_say_is_not_written(
    xl_folder: XlFolder, tmp_path: Path, scheduler: Any, vae: dict[str, Any]
) -> None:
    with pytest.raises(UserError, match=r"--as single-file: .*use pipeline, delta or mask"):
        written(xl_folder(tmp_path / "model", scheduler, vae))
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("scheduler", "vae", "message"),
    [
        (velocity(), {}, r"tensor v_pred, which calls for v_prediction, .* is epsilon"),
        (velocity(rescale_betas_zero_snr=True), {}, r"tensor v_pred"),
        (playground(), CHANNELS, r"tensor edm_mean, which calls for an EDM scheduler"),
        (
            EDMEulerScheduler(sigma_data=1.0, prediction_type="v_prediction"),
            {},
            r"tensor edm_vpred.sigma_max, which calls for an EDM scheduler",
        ),
    ],
    ids=["velocity", "zero snr", "edm", "edm velocity"],
)
def test_configs_of_another_sampling_are_refused_and_the_files_own_are_taken(
    xl_folder: XlFolder, tmp_path: Path, scheduler: Any, vae: dict[str, Any], message: str
) -> None:
    own = xl_folder(tmp_path / "own", scheduler, vae)
    other = xl_folder(tmp_path / "other", EulerDiscreteScheduler(**NOISE))
    write_single_file(NOTHING, own, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=message):
        converted_folder(tmp_path / "model.safetensors", other)
    converted_folder(tmp_path / "model.safetensors", own)


def test_latents_of_other_channels_than_the_files_are_refused(
    xl_folder: XlFolder, tmp_path: Path
) -> None:
    own = xl_folder(tmp_path / "own", playground(), CHANNELS)
    write_single_file(NOTHING, own, tmp_path / "model.safetensors")
    other = xl_folder(
        tmp_path / "other", playground(), {**CHANNELS, "latents_mean": [0.0, 1.9, -1.4, 2.5]}
    )
    with pytest.raises(UserError, match=r"edm_mean.*-1\.6.*latents_mean of vae/config.json"):
        converted_folder(tmp_path / "model.safetensors", other)


@pytest.mark.parametrize(
    ("name", "prefix", "part"),
    [
        ("sd1", "first_stage_model.", "vae"),
        ("sd1", "cond_stage_model.", "text_encoder"),
        ("sdxl", "conditioner.embedders.1.", "text_encoder_2"),
        ("sdxl", "model.diffusion_model.", "unet"),
    ],
)
def test_a_file_without_a_component_is_refused_by_its_name(
    folders: dict[str, Path], tmp_path: Path, name: str, prefix: str, part: str
) -> None:
    file, configs = single_file(folders[name], tmp_path)
    kept = {key: t for key, t in load_file(file).items() if not key.startswith(prefix)}
    save_file(kept, file)
    with pytest.raises(UserError, match=rf"has no {part}: .*{prefix}"):
        converted_folder(file, configs)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("sd1", "cond_stage_model.transformer.text_model.encoder.layers.1.mlp.fc1.weight"),
        ("sd2", "cond_stage_model.model.transformer.resblocks.1.mlp.c_fc.weight"),
        ("sdxl", "conditioner.embedders.1.model.text_projection"),
        ("sdxl", "first_stage_model.decoder.conv_out.weight"),
    ],
)
def test_a_file_that_lacks_a_tensor_is_refused_and_nothing_is_made_up(
    folders: dict[str, Path], tmp_path: Path, name: str, part: str
) -> None:
    file, configs = single_file(folders[name], tmp_path)
    tensors = load_file(file)
    del tensors[part]
    save_file(tensors, file)
    with pytest.raises(UserError, match=r"model.file: .* cannot be loaded as"):
        converted_folder(file, configs)
