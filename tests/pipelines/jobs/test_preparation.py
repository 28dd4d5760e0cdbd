"""Models and prompts that cannot work are refused before any work, in one line that says why."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline, StableDiffusion3Pipeline, StableDiffusionPipeline

from conceptprune.checkpoints.files import pipeline_files
from conceptprune.errors import UserError
from conceptprune.manifest import parse_manifest
from conceptprune.manifest.collection import default_dtype
from conceptprune.masks.mask import PruningMask
from conceptprune.models.families import family_of
from conceptprune.models.prompt import Prompt
from pipelines.cli import main
from pipelines.jobs.preparation import prepare
from pipelines.jobs.sizes import sizes_of
from tests.end_to_end.test_every_family import write_manifest
from tests.support.tiny_models import SIDE, STEPS, TINY_MODELS

TINY = {tiny.name: tiny for tiny in TINY_MODELS}
NOTHING = PruningMask(concepts=("none",), component="unet", layers={}, provenance={})
UNET = "unet/config.json"
FFN = r"re:(.*\.)?ff\.net\.2"


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("manifests")
    for name in ("sd2", "sdxl"):
        (root / name).mkdir()
    return {name: write_manifest(root / name, TINY[name]) for name in ("sd2", "sdxl")}


def changed(path: Path, changes: dict[str, Any]) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}), encoding="utf-8")


REFUSED: list[tuple[str, str, dict[str, Any], str]] = [
    ("sd2", UNET, {"in_channels": 9}, r"in_channels is 9.*config.json have 4.*text-to-image model"),
    ("sd2", UNET, {"in_channels": 8}, r"in_channels is 8"),
    ("sd2", UNET, {"time_cond_proj_dim": 32}, r"time_cond_proj_dim is 32.*distilled from"),
    ("sdxl", UNET, {"time_cond_proj_dim": 32}, r"time_cond_proj_dim is 32.*distilled from"),
    ("sd2", UNET, {"class_embed_type": "timestep"}, r"class_embed_type is timestep"),
    ("sd2", UNET, {"num_class_embeds": 1000}, r"num_class_embeds is 1000.*upscaler"),
    ("sd2", UNET, {"addition_embed_type": "text_time"}, r"addition_embed_type is text_time"),
    ("sdxl", UNET, {"addition_embed_type": None}, r"addition_embed_type is None"),
    ("sd2", UNET, {"sample_size": None}, r"sample_size .* is None.*collection\.resolution"),
    ("sdxl", UNET, {"projection_class_embeddings_input_dim": 88}, r"calls for 5 sizes.*refiner"),
    ("sdxl", UNET, {"projection_class_embeddings_input_dim": 80}, r"no Stable Diffusion XL base"),
    ("sd2", "model_index.json", {"_class_name": ["mine", "Mine"]}, r"_class_name is \[\"mine\""),
    ("sd2", "model_index.json", {"unet": ["mine", "Mine"]}, r"unet is of mine.*not run"),
    ("sd2", "model_index.json", {"unet": ["diffusers", "Mine"]}, r"diffusers .* does not have"),
    ("sd2", "model_index.json", {"unet": [None, None]}, r"unet is missing"),
    ("sd2", "model_index.json", {"text_encoder": [None, None]}, r"text_encoder is missing"),
    ("sd2", "model_index.json", {"vae": [None, None]}, r"vae is missing"),
    ("sdxl", "model_index.json", {"text_encoder_2": [None, None]}, r"text_encoder_2 is missing"),
    ("sd2", "scheduler/scheduler_config.json", {"beta_schedule": "no"}, r"DDIMScheduler cannot"),
    ("sd2", "vae/config.json", {"latent_channels": 16}, r"config.json have 16"),
]


@pytest.mark.parametrize(("name", "file", "changes", "message"), REFUSED, ids=lambda v: str(v)[:40])
def test_a_model_that_cannot_be_generated_with_is_refused_by_file_and_field(
    manifests: dict[str, Path], name: str, file: str, changes: dict[str, Any], message: str
) -> None:
    path = manifests[name].parent / "model" / file
    before = path.read_bytes()
    changed(path, changes)
    try:
        with pytest.raises(UserError, match=message) as error:
            prepare(manifests[name])
    finally:
        path.write_bytes(before)
    assert "\n" not in str(error.value)
    assert file in str(error.value) or "sample_size" in changes


@pytest.mark.parametrize(
    "pipeline", ["StableDiffusionInpaintPipeline", "StableDiffusionXLImg2ImgPipeline"]
)
def test_pipelines_that_need_an_image_are_refused_with_an_expression_too(
    tmp_path: Path, pipeline: str
) -> None:
    path = write_manifest(tmp_path, TINY["sd2"], pruning={"site": FFN})
    changed(tmp_path / "model" / "model_index.json", {"_class_name": pipeline})
    with pytest.raises(UserError, match=rf"{pipeline}, a pipeline that generates from more than"):
        prepare(path)


def exit_code(command: list[str]) -> Any:
    with pytest.raises(SystemExit) as left:
        main(command)
    return left.value.code


def test_the_command_line_says_it_in_one_line_and_exits_with_2(
    manifests: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = manifests["sd2"].parent / "model" / UNET
    before = path.read_bytes()
    there = sorted(manifests["sd2"].parent.rglob("*"))
    changed(path, {"in_channels": 9})
    try:
        for command in (["plan"], ["validate", "--model"]):
            assert exit_code([*command, str(manifests["sd2"])]) == 2
            said = capsys.readouterr().err.strip()
            assert "in_channels is 9" in said.replace("\n", " ")
            assert "Traceback" not in said
    finally:
        path.write_bytes(before)
    assert exit_code(["validate", "--model", str(manifests["sd2"])]) == 0
    assert sorted(manifests["sd2"].parent.rglob("*")) == there


def test_sizes_of_a_model_of_images_that_are_not_square(manifests: dict[str, Path]) -> None:
    path = manifests["sd2"].parent / "model" / UNET
    before = path.read_bytes()
    changed(path, {"sample_size": [SIDE, 12]})
    try:
        sizes = sizes_of(prepare(manifests["sd2"]))
    finally:
        path.write_bytes(before)
    assert (sizes.latent_numbers, sizes.image_bytes) == (4 * SIDE * 12, 3 * 64 * SIDE * 12)


def test_a_concept_past_the_last_token_is_refused_with_what_is_lost(tmp_path: Path) -> None:
    path = write_manifest(tmp_path, TINY["sd2"])
    # One token a letter, 75 of a prompt's are read.
    text = path.read_text().replace("cat", "w" * 50)
    path.write_text(text.replace("Ada Bell", "AdaBell"))
    prepare(path)
    path.write_text(text.replace("Ada Bell", "AdaMariaTheresiaBell"))
    with pytest.raises(
        UserError, match=r'"AdaMariaTheresiaBell" is past the last .* 77 tokens'
    ) as error:
        prepare(path)
    assert "8 tokens are cut off" in str(error.value)


@pytest.mark.parametrize(
    ("device", "gpus", "dtype"),
    [
        ("auto", 0, "float32"),
        ("cpu", 1, "float32"),
        ("auto", 0.5, "float16"),
        ("cuda", 0, "float16"),
    ],
)
def test_a_manifest_without_a_dtype_has_the_one_that_is_fast_there(
    device: Any, gpus: float, dtype: str
) -> None:
    text = (
        "version: 1\nmodel: {builtin: studio}\nconcepts: [{name: Van Gogh, kind: style}]\n"
        f"collection: {{device: {device}}}\ncompute: {{gpus_per_actor: {gpus}}}\n"
    )
    manifest = parse_manifest(text, source="m.yaml", folder=Path())
    assert manifest.dtype == dtype == default_dtype(device, gpus)
    named = parse_manifest(
        text.replace("{device", "{dtype: bfloat16, device"), source="m.yaml", folder=Path()
    )
    assert named.dtype == "bfloat16"


def test_keys_and_records_hold_the_dtype_that_a_manifest_leaves_out(tmp_path: Path) -> None:
    path = write_manifest(tmp_path, TINY["sd2"])
    named = prepare(path)
    path.write_text(path.read_text().replace("dtype: float32", "device: auto"))
    assert "dtype" not in path.read_text()
    found = prepare(path)
    assert found.manifest == named.manifest
    assert found.model.key_parts == named.model.key_parts


def test_a_model_without_its_largest_text_encoder_generates_as_in_diffusers(tmp_path: Path) -> None:
    pipe = TINY["sd3"].pipeline()
    pipe.register_modules(text_encoder_3=None, tokenizer_3=None)
    pipe.save_pretrained(tmp_path)
    model = family_of(tmp_path).load(tmp_path, offload="encoders")
    generated = model.generate([Prompt(text="a cat", seed=1)], steps=STEPS, guidance=5.0)
    reference = StableDiffusion3Pipeline.from_pretrained(
        tmp_path, text_encoder_3=None, tokenizer_3=None
    )
    theirs = reference(
        "a cat",
        num_inference_steps=STEPS,
        guidance_scale=5.0,
        generator=torch.Generator().manual_seed(1),
        output_type="np",
    ).images
    np.testing.assert_allclose(generated.numpy() / 255, theirs, atol=2 / 255)


def test_flux_without_clip_generates_as_in_diffusers_without_a_pooled_state(tmp_path: Path) -> None:
    whole = TINY["flux-dev"].pipeline()
    states, pooled, _ = whole.encode_prompt("a cat", None)
    whole.register_modules(text_encoder=None, tokenizer=None)
    whole.save_pretrained(tmp_path)
    model = family_of(tmp_path).load(tmp_path, resolution=64)
    generated = model.generate([Prompt(text="a cat", seed=1)], steps=STEPS, guidance=5.0)
    pipe = FluxPipeline.from_pretrained(tmp_path, text_encoder=None, tokenizer=None)
    theirs = pipe(
        prompt_embeds=states,
        pooled_prompt_embeds=torch.zeros_like(pooled),
        num_inference_steps=STEPS,
        guidance_scale=5.0,
        height=64,
        width=64,
        generator=torch.Generator().manual_seed(1),
        output_type="np",
    ).images
    np.testing.assert_allclose(generated.numpy() / 255, theirs, atol=2 / 255)


def exported(folder: Path, out: Path) -> Path:
    for name, data in pipeline_files(NOTHING, folder):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(data)
    return out


def test_an_export_of_a_base_with_a_pickled_safety_checker_loads(tmp_path: Path) -> None:
    TINY["sd2"].pipeline().save_pretrained(tmp_path / "model")
    checker = tmp_path / "model" / "safety_checker"
    checker.mkdir()
    (checker / "config.json").write_text("{}")
    (checker / "pytorch_model.bin").write_bytes(b"a pickle")
    entry = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    changed(tmp_path / "model" / "model_index.json", {"safety_checker": entry})
    family_of(tmp_path / "model").load(tmp_path / "model")
    out = exported(tmp_path / "model", tmp_path / "out")
    assert not (out / "safety_checker").exists()
    assert StableDiffusionPipeline.from_pretrained(out).safety_checker is None


@pytest.mark.parametrize("size", [{}, {"max_shard_size": "60KB"}], ids=["one file", "shards"])
def test_an_export_of_a_variant_loads_without_asking_for_it(
    tmp_path: Path, size: dict[str, str]
) -> None:
    pipe = TINY["sd2"].pipeline().to(torch.float16)
    pipe.save_pretrained(tmp_path / "model", variant="fp16", **size)
    out = exported(tmp_path / "model", tmp_path / "out")
    loaded = StableDiffusionPipeline.from_pretrained(out, torch_dtype=torch.float16)
    for name in ("unet", "text_encoder", "vae"):
        expected = getattr(pipe, name).state_dict()
        for key, tensor in getattr(loaded, name).state_dict().items():
            assert tensor.equal(expected[key])
