"""What holds in every family, on the smallest true model of each."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conceptprune.collection.collect import Window, collect, collect_window
from conceptprune.collection.statistics import join_calls
from conceptprune.manifest import Collection
from conceptprune.masks.layer_mask import LayerMask
from conceptprune.masks.mask import PruningMask
from conceptprune.models.base import DiffusionModel
from conceptprune.models.families import family_of, identity
from conceptprune.models.generate import generate
from conceptprune.models.prompt import Prompt
from conceptprune.models.sites import site_linears
from conceptprune.models.trajectory import TrajectoryState
from conceptprune.models.weights import weight_digest
from tests.support.tiny_models import ONE_A_FAMILY, STEPS, TINY_MODELS, TinyModel

pytestmark = pytest.mark.slow

PROMPTS = [Prompt(text="a photo of a cat", seed=3), Prompt(text="a house in a style", seed=4)]
GUIDANCE = 5.0
SETTINGS = Collection(steps=STEPS, tau=3, guidance=GUIDANCE, batch_size=2)


@pytest.fixture(scope="module", params=TINY_MODELS, ids=lambda tiny: tiny.name)
def tiny(request: pytest.FixtureRequest) -> TinyModel:
    return request.param


one_a_family = pytest.mark.parametrize(
    "tiny", ONE_A_FAMILY, ids=lambda tiny: tiny.name, indirect=True, scope="module"
)


@pytest.fixture(scope="module")
def folder(tiny: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("family") / tiny.name
    tiny.pipeline().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def model(tiny: TinyModel, folder: Path) -> DiffusionModel:
    return family_of(folder).load(folder, resolution=tiny.resolution)


@pytest.fixture(scope="module")
def latents(model: DiffusionModel) -> torch.Tensor:
    return denoise(model)


def denoise(model: DiffusionModel) -> torch.Tensor:
    batch = model.begin(PROMPTS, steps=STEPS, guidance=GUIDANCE)
    for _ in range(batch.trajectory.num_calls):
        model.advance(batch)
    return batch.trajectory.latents


def site_mask(model: DiffusionModel, *, full: bool, site: str = "ffn_out") -> PruningMask:
    layers = {}
    for name, linear in site_linears(model.denoiser, model.sites[site]).items():
        rows, columns = linear.weight.shape
        first = model.sites[site].first_column(name, (rows, columns))
        flat = np.arange(rows * columns) if full else np.empty(0, np.int64)
        layers[name] = LayerMask(
            shape=(rows, columns),
            entries=flat[flat % columns >= first],
            weight_digest=weight_digest(linear.weight),
            first_column=first,
        )
    return PruningMask(concepts=("a",), component=model.component, layers=layers, provenance={})


def test_the_denoising_loop_is_that_of_diffusers(
    tiny: TinyModel, model: DiffusionModel, latents: torch.Tensor
) -> None:
    pipe = tiny.pipeline()
    samples = []
    denoiser = getattr(pipe, model.component)
    denoiser.register_forward_pre_hook(
        lambda _, args, kwargs: samples.append(len(args[0] if args else kwargs["hidden_states"])),
        with_kwargs=True,
    )
    theirs = pipe(
        [prompt.text for prompt in PROMPTS],
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        generator=[torch.Generator().manual_seed(prompt.seed) for prompt in PROMPTS],
        output_type="latent",
        **tiny.call,
    ).images
    batch = model.begin(PROMPTS, steps=STEPS, guidance=GUIDANCE)
    assert samples == [batch.num_branches * len(PROMPTS)] * batch.trajectory.num_calls
    assert (batch.trajectory.num_calls, batch.num_branches) == (tiny.calls, tiny.num_branches)
    # Not bit for bit: they encode the prompts of a batch together, we one by one.
    torch.testing.assert_close(latents, theirs, rtol=1e-3, atol=1e-4)


def test_images_are_those_of_diffusers(tiny: TinyModel, model: DiffusionModel) -> None:
    theirs = tiny.pipeline()(
        PROMPTS[0].text,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        generator=torch.Generator().manual_seed(PROMPTS[0].seed),
        output_type="np",
        **tiny.call,
    ).images
    ours = generate(model, PROMPTS[:1], steps=STEPS, guidance=GUIDANCE, batch_size=1)
    np.testing.assert_allclose(ours / 255, theirs, atol=2 / 255)


@one_a_family
def test_a_mask_without_entries_changes_no_bit(
    model: DiffusionModel, latents: torch.Tensor
) -> None:
    mask = site_mask(model, full=False)
    mask.apply(model.pipe)
    try:
        assert torch.equal(denoise(model), latents)
    finally:
        mask.remove(model.pipe)


@one_a_family
def test_a_mask_of_the_whole_site_changes_the_image_and_can_be_taken_back(
    model: DiffusionModel, latents: torch.Tensor
) -> None:
    mask = PruningMask.from_bytes(site_mask(model, full=True).to_bytes())
    assert mask.density == 1
    mask.apply(model.pipe)
    try:
        masked = denoise(model)
    finally:
        mask.remove(model.pipe)
    assert masked.isfinite().all()
    assert (masked - latents).abs().max() > 1e-3
    assert torch.equal(denoise(model), latents)


def test_windows_change_no_bit_and_statistics_cover_all_inputs_of_the_site(
    model: DiffusionModel,
) -> None:
    whole = collect(model, PROMPTS, SETTINGS)
    windows, states = [], None
    for start in range(SETTINGS.tau):
        result = collect_window(model, PROMPTS, SETTINGS, Window(start, start + 1), states)
        windows.append(result.statistics)
        states = [TrajectoryState.from_bytes(state.to_bytes()) for state in result.states]
    assert join_calls(windows).to_arrow().equals(whole.to_arrow())

    linears = site_linears(model.denoiser, model.sites["ffn_out"])
    assert whole.layers.keys() == linears.keys()
    num_branches = model.num_branches(GUIDANCE)
    for name, layer in whole.layers.items():
        rows, columns = linears[name].weight.shape
        width = columns - model.sites["ffn_out"].first_column(name, (rows, columns))
        assert layer.sum_sq.shape == (SETTINGS.tau, width)
        assert layer.num_rows % (num_branches * len(PROMPTS)) == 0
        # Every row has unit length, so that all columns together sum to the number of rows.
        np.testing.assert_allclose(layer.sum_sq.sum(1), layer.num_rows, rtol=1e-4)


@one_a_family
def test_half_precision_weights_are_summed_in_float64(
    tiny: TinyModel, folder: Path, model: DiffusionModel
) -> None:
    # As they are published.
    dtype = torch.float16 if model.component == "unet" else torch.bfloat16
    half = family_of(folder).load(folder, dtype=dtype, resolution=tiny.resolution)
    assert {half.dtype, *(encoder.dtype for encoder in half.text_encoders().values())} == {dtype}
    settings = SETTINGS.model_copy(update={"tau": 1})
    whole = collect(model, PROMPTS, settings).layers
    for name, layer in collect(half, PROMPTS, settings).layers.items():
        assert layer.sum_sq.dtype == np.float64
        exact = whole[name].sum_sq
        np.testing.assert_allclose(layer.sum_sq, exact, rtol=0.5, atol=0.05 * exact.max())


@one_a_family
def test_a_prompt_is_encoded_once(model: DiffusionModel) -> None:
    model.encode_all([""])  # Its kind of unconditional branch may need it.
    encodings: list[Any] = []
    texts = [Prompt(text=f"{model.component} {n}", seed=0) for n in range(3)]
    handles = list(count_calls(model, encodings))
    try:
        collect(model, texts, SETTINGS.model_copy(update={"batch_size": 1, "tau": 1}))
        first = len(encodings)
        collect(model, texts, SETTINGS.model_copy(update={"batch_size": 2, "tau": 1}))
    finally:
        for handle in handles:
            handle.remove()
    assert first == len(encodings) == len(texts) * len(handles)


def count_calls(model: DiffusionModel, calls: list[Any]) -> Iterator[Any]:
    for encoder in model.text_encoders().values():
        yield encoder.register_forward_hook(lambda *_: calls.append(None))


@one_a_family
def test_the_digest_is_of_the_weights_and_the_texts_but_not_of_the_decoder(
    folder: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert identity(copy) == identity(folder)
    (copy / "vae" / "config.json").write_text("{}")
    assert identity(copy) == identity(folder)
    (encoder, *_) = copy.glob("text_encoder*/model.safetensors")
    encoder.write_bytes(encoder.read_bytes() + b"\0")
    assert identity(copy) != identity(folder)
