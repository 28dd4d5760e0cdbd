"""What is freed and offloaded is really gone meanwhile, and changes no bit of any result."""

import gc
import weakref
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pytest
import torch

from conceptprune.collection.collect import collect
from conceptprune.manifest import Collection
from conceptprune.models import base as families_model
from conceptprune.models.base import DiffusionModel
from conceptprune.models.families import family_of
from conceptprune.models.generate import generate
from conceptprune.models.other import OtherPipeline
from conceptprune.models.prompt import Prompt
from conceptprune.models.settings import Offload
from conceptprune.store import Store
from conceptprune.units.worker import Worker
from pipelines.jobs.preparation import plan_here, prepare
from tests.end_to_end.test_every_family import write_manifest
from tests.support.tiny_models import STEPS, TINY_MODELS

pytestmark = pytest.mark.slow

PROMPTS = [Prompt(text=f"a photo of a {thing}", seed=n) for n, thing in enumerate(["cat", "dog"])]
SETTINGS = Collection(steps=STEPS, tau=2, guidance=5.0, batch_size=1)
ONE_CALL = SETTINGS.model_copy(update={"tau": 1})
SITES = ("ffn_out", "attn_key", "text_ffn")
OFFLOADS = tuple(offload for offload in get_args(Offload) if offload != "none")
CASES = [
    *((name, "encoders") for name in ("sdxl", "sd3", "flux-dev", "pixart-sigma")),
    *(("sdxl", offload) for offload in ("model", "sequential")),
]
"""One of each way to encode and to be called."""

Load = Callable[..., DiffusionModel]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """Loads a tiny model by name, which is saved once."""
    folder = tmp_path_factory.mktemp("families")
    tiny_of = {tiny.name: tiny for tiny in TINY_MODELS}

    def load(name: str, offload: Offload) -> DiffusionModel:
        if not (folder / name).exists():
            tiny_of[name].pipeline().save_pretrained(folder / name)
        return family_of(folder / name).load(
            folder / name, resolution=tiny_of[name].resolution, offload=offload
        )

    return load


@pytest.fixture(scope="module")
def expected(load: Load) -> Callable[[str], tuple[pa.Table, np.ndarray]]:
    return lru_cache(lambda name: computed(load(name, "none")))


def computed(model: DiffusionModel) -> tuple[pa.Table, np.ndarray]:
    statistics = collect(model, PROMPTS, SETTINGS, site=SITES).to_arrow()
    return statistics, generate(model, PROMPTS[:1], steps=2, guidance=5.0, batch_size=1)


@pytest.mark.parametrize(("name", "offload"), CASES)
def test_text_encoders_are_gone_when_denoising_starts_and_no_bit_changes(
    load: Load,
    expected: Callable[[str], tuple[pa.Table, np.ndarray]],
    name: str,
    offload: Offload,
) -> None:
    model = load(name, offload)
    encoders = [weakref.ref(encoder) for encoder in model.text_encoders().values()]
    weights = [weakref.ref(next(ref().parameters())) for ref in encoders]  # type: ignore[union-attr]
    seen: list[Any] = []
    handle = model.denoiser.register_forward_pre_hook(
        lambda *_: seen.append([ref() for ref in (*encoders, *weights)])
    )
    gc.disable()  # They must go by themselves, not when the collector happens to come by.
    try:
        statistics, images = computed(model)
    finally:
        gc.enable()
        handle.remove()
    assert statistics.equals(expected(name)[0])
    np.testing.assert_array_equal(images, expected(name)[1])
    assert len(seen) > 0 < len(encoders)
    assert all(alive == [None] * (2 * len(encoders)) for alive in seen)


def test_encoders_are_loaded_once_for_many_batches(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load("sdxl", "encoders")
    encoders = list(model.text_encoders().values())
    loads: list[Any] = []
    for kind in {type(encoder) for encoder in encoders}:
        read = kind.from_pretrained
        monkeypatch.setattr(
            kind, "from_pretrained", lambda *a, read=read, **k: (loads.append(a), read(*a, **k))[1]
        )
    del encoders
    prompts = [Prompt(text=f"number {n}", seed=0) for n in range(5)]
    collect(model, prompts, ONE_CALL)
    assert not loads  # They were there from the start.
    collect(model, prompts, ONE_CALL)
    assert not loads  # Nothing new was to be encoded.
    collect(model, [Prompt(text=f"other {n}", seed=0) for n in range(5)], ONE_CALL)
    assert len(loads) == len(model.text_encoders())


def test_more_prompts_than_encodings_are_kept_change_no_bit(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ONE_CALL.model_copy(update={"batch_size": 2})
    prompts = [Prompt(text=f"number {n}", seed=0) for n in range(5)]
    expected = collect(load("sd2", "none"), prompts, settings).to_arrow()
    monkeypatch.setattr(families_model, "KEPT_ENCODINGS", 2)
    assert collect(load("sd2", "encoders"), prompts, settings).to_arrow().equals(expected)


def test_denoiser_and_encoders_take_turns(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load("sdxl", "model")
    moves: list[str] = []
    to = model.denoiser.to
    monkeypatch.setattr(
        model.denoiser, "to", lambda device: (moves.append(f"to {device}"), to(device))[1]
    )
    model._residency.device = torch.device("cpu", 0)  # type: ignore[union-attr]
    for encoder in model.text_encoders().values():
        encoder.register_forward_pre_hook(lambda *_: moves.append("encode"))
    model.denoiser.register_forward_pre_hook(lambda *_: moves.append("denoise"))
    collect(model, PROMPTS, SETTINGS)
    first = moves.index("denoise")
    assert moves[0] == "to cpu"
    assert moves[first - 2 : first] == ["encode", "to cpu:0"]
    assert moves.count("encode") == moves[:first].count("encode") > 0
    assert moves[:first].count("to cpu:0") == 1


def test_every_weight_of_the_denoiser_is_offloaded_by_the_layer(load: Load) -> None:
    from diffusers.hooks.group_offloading import _is_group_offload_enabled

    model = load("sdxl", "sequential")
    assert _is_group_offload_enabled(model.denoiser)


def test_an_unknown_pipeline_keeps_its_encoders(tmp_path: Path) -> None:
    (tiny,) = (tiny for tiny in TINY_MODELS if tiny.name == "sd2")
    tiny.pipeline().save_pretrained(tmp_path)
    site = r"re:(.*\.)?ff\.net\.2"
    expected = collect(OtherPipeline.load(tmp_path), PROMPTS, SETTINGS, site=site).to_arrow()
    for offload in OFFLOADS:
        model = OtherPipeline.load(tmp_path, offload=offload)
        assert collect(model, PROMPTS, SETTINGS, site=site).to_arrow().equals(expected)


def test_masks_of_text_encoders_are_applied_to_what_is_generated_with(tmp_path: Path) -> None:
    (tiny,) = (tiny for tiny in TINY_MODELS if tiny.name == "sdxl")
    found = {}
    for offload in ("none", "encoders"):
        prepared = prepare(
            write_manifest(
                tmp_path, tiny, pruning={"site": "text_ffn"}, compute={"offload": offload}
            )
        )
        assert prepared.model.offload == offload
        store = Store(str(tmp_path / offload))
        worker = Worker(store, prepared.model)
        plan = plan_here(prepared)
        found[offload] = {unit.key: worker.run(unit).objects for unit in plan.units()}
        # The mask changed what was generated, or the preview would have failed; it is gone again.
        assert not any(
            hasattr(module, "_conceptprune_masks")
            for encoder in worker.denoiser.text_encoders().values()
            for module in encoder.modules()
        )
    assert found["none"] == found["encoders"]
