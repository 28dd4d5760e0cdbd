"""Pipelines of no known family: run by themselves and watched, their sites named by the user."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import LatentConsistencyModelPipeline, LCMScheduler, UNet2DConditionModel

from conceptprune.collection.collect import collect
from conceptprune.errors import UserError
from conceptprune.manifest import Collection
from conceptprune.models.families import FAMILIES, family_of
from conceptprune.models.flux import Flux
from conceptprune.models.other import OtherPipeline
from conceptprune.models.prompt import Prompt
from conceptprune.store import Store
from conceptprune.units.prompts_units import prompts_units
from conceptprune.units.results import read_mask
from conceptprune.units.worker import Worker
from pipelines.jobs.preparation import plan_here, prepare
from pipelines.jobs.sizes import sizes_of
from tests.end_to_end.test_every_family import write_manifest
from tests.support.tiny_models import DIM, NOISE, STEPS, TINY_MODELS, TinyModel, stable_diffusion_2

pytestmark = pytest.mark.slow

PROMPTS = [Prompt(text=f"a photo of a {thing}", seed=n) for n, thing in enumerate(["cat", "dog"])]
FFN = r"re:(.*\.)?ff(_context)?\.net\.2"
SETTINGS = Collection(steps=STEPS, tau=3, guidance=5.0, batch_size=2)


def latent_consistency() -> LatentConsistencyModelPipeline:
    """A UNet that embeds its guidance, which no family here knows."""
    parts = stable_diffusion_2().components
    config = {name: value for name, value in parts["unet"].config.items() if name[0] != "_"}
    parts |= {
        "unet": UNet2DConditionModel(**{**config, "time_cond_proj_dim": DIM}),
        "scheduler": LCMScheduler(**NOISE),
    }
    return LatentConsistencyModelPipeline(**parts, requires_safety_checker=False)


LCM = TinyModel(name="lcm", build=latent_consistency, calls=STEPS, num_branches=1)


WATCHED = [
    ("sd1", "both"),
    ("sd2", "conditional"),
    ("sdxl", "conditional"),
    ("sdxl-empty", "both"),
    ("sdxl-empty", "conditional"),
    ("sd3", "conditional"),
    ("flux-dev", "both"),
]
"""Not PixArt, whose pipelines clean captions and change resolutions unless told otherwise; nor
flux-schnell, whose pipeline by itself takes more text tokens than the family."""


@pytest.mark.parametrize(("name", "branches"), WATCHED)
def test_watching_a_pipeline_gives_what_its_family_gives(name: str, branches: str) -> None:
    (tiny,) = (tiny for tiny in TINY_MODELS if tiny.name == name)
    pipe = tiny.pipeline()
    settings = SETTINGS.model_copy(update={"guidance_branches": branches})
    family = FAMILIES[type(pipe).__name__]
    known = collect(family(pipe, resolution=tiny.resolution), PROMPTS, settings, site=FFN)
    watched = collect(OtherPipeline(pipe, resolution=tiny.resolution), PROMPTS, settings, site=FFN)
    assert watched.layers.keys() == known.layers.keys()
    # FLUX.1's denoiser is told its timesteps as fractions.
    scale = 1000 if family is Flux else 1
    np.testing.assert_allclose(scale * np.array(watched.timesteps), known.timesteps, rtol=1e-5)
    for name, layer in known.layers.items():
        assert watched.layers[name].num_rows == layer.num_rows
        np.testing.assert_allclose(
            watched.layers[name].sum_sq, layer.sum_sq, rtol=1e-2, atol=1e-3 * layer.sum_sq.max()
        )


def test_a_pipeline_is_left_after_the_last_call_asked_for() -> None:
    model = OtherPipeline(LCM.pipeline())
    calls = []
    model.denoiser.register_forward_hook(lambda *_: calls.append(None))
    collect(model, PROMPTS, SETTINGS, site=FFN)
    assert len(calls) == SETTINGS.tau
    assert not model.denoiser._forward_pre_hooks
    with pytest.raises(UserError, match=r"collection\.tau: 5 calls .* only 4 with steps: 4"):
        collect(model, PROMPTS, SETTINGS.model_copy(update={"tau": 5}), site=FFN)


def test_a_pipeline_of_no_known_family_cannot_be_stepped() -> None:
    model = OtherPipeline(LCM.pipeline())
    latents = torch.zeros(1, 4, 8, 8)
    with pytest.raises(UserError, match="only run as a whole"):
        model.predict(latents, torch.tensor(1), {}, 1.0)


def test_a_concept_is_erased_from_a_pipeline_of_no_known_family(tmp_path: Path) -> None:
    prepared = prepare(write_manifest(tmp_path, LCM, pruning={"site": FFN}))
    assert family_of(tmp_path / "model") is OtherPipeline
    worker = Worker(Store(str(tmp_path / "store")), prepared.model)
    plan = plan_here(prepared)
    for unit in (*prompts_units(prepared.manifest), *plan.units()):
        worker.run(unit)
    mask = read_mask(worker.store, plan.concepts[0].mask.key)
    assert mask.component == "unet"
    assert 0 < mask.density < 0.11
    assert sizes_of(prepared).shapes == {name: part.shape for name, part in mask.layers.items()}


def test_an_unknown_pipeline_without_an_expression_is_told_the_way(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"LatentConsistency.* FluxPipeline.*site: 're:") as error:
        prepare(write_manifest(tmp_path, LCM))
    assert all(name in str(error.value) for name in FAMILIES)


def test_windows_of_an_unknown_pipeline_are_refused(tmp_path: Path) -> None:
    path = write_manifest(tmp_path, LCM, pruning={"site": FFN}, collection={"window": 1})
    with pytest.raises(UserError, match=r"collection\.window: must be null"):
        prepare(path)
