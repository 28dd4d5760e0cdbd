"""Sites: which layers, what they see, and several of them from the same forward passes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from conceptprune.collection.collect import collect
from conceptprune.collection.statistics import Statistics
from conceptprune.errors import UserError
from conceptprune.manifest import Collection
from conceptprune.masks.mask import PruningMask
from conceptprune.models.base import DiffusionModel
from conceptprune.models.families import FAMILIES
from conceptprune.models.prompt import Prompt
from conceptprune.store import Store
from conceptprune.units.prompts_units import prompts_units
from conceptprune.units.results import read_mask
from conceptprune.units.worker import Worker
from pipelines.jobs.preparation import plan_here, prepare
from pipelines.jobs.sizes import sizes_of
from tests.end_to_end.test_every_family import write_manifest
from tests.support.tiny_models import ONE_A_FAMILY, STEPS, TinyModel

pytestmark = pytest.mark.slow

PROMPTS = [Prompt(text="a photo of a cat", seed=3), Prompt(text="a house in a style", seed=4)]
SETTINGS = Collection(steps=STEPS, tau=2, guidance=5.0, batch_size=2)
NAMES = ("ffn_out", "ffn_in", "attn_key", "attn_value", "text_ffn")


@pytest.fixture(scope="module", params=ONE_A_FAMILY, ids=lambda tiny: tiny.name)
def tiny(request: pytest.FixtureRequest) -> TinyModel:
    return request.param


@pytest.fixture(scope="module")
def model(tiny: TinyModel) -> DiffusionModel:
    pipe = tiny.pipeline()
    return FAMILIES[type(pipe).__name__](pipe, resolution=tiny.resolution)


def test_a_site_alone_has_its_statistics_among_others_and_denoises_only_if_it_sees_latents(
    model: DiffusionModel,
) -> None:
    together = collect(model, PROMPTS, SETTINGS, site=NAMES)
    for name in NAMES:
        alone, calls = collect_alone(model, name)
        assert calls == (SETTINGS.tau if model.sites[name].sees == "latents" else 0)
        assert alone.timesteps == together.timesteps
        assert alone.layers.keys() <= together.layers.keys()
        for layer, statistics in alone.layers.items():
            np.testing.assert_array_equal(statistics.sum_sq, together.layers[layer].sum_sq)
            np.testing.assert_array_equal(statistics.sum_norm, together.layers[layer].sum_norm)
            assert statistics.num_rows == together.layers[layer].num_rows


def collect_alone(model: DiffusionModel, site: str) -> tuple[Statistics, int]:
    """The statistics of one site, and how many denoiser calls were begun for them."""
    calls = []
    handle = model.denoiser.register_forward_pre_hook(lambda *_: calls.append(None))
    try:
        return collect(model, PROMPTS, SETTINGS, site=site), len(calls)
    finally:
        handle.remove()


def test_the_sites_have_no_layer_in_common(model: DiffusionModel) -> None:
    layers = [set(model.site_linears([name])) for name in NAMES]
    assert all(layers)
    assert len(set.union(*layers)) == sum(map(len, layers))


@pytest.mark.parametrize("name", ["sdxl", "flux-dev"])
def test_several_sites_and_components_go_into_one_mask(name: str, tmp_path: Path) -> None:
    (tiny,) = (tiny for tiny in ONE_A_FAMILY if tiny.name == name)
    prepared = prepare(
        write_manifest(
            tmp_path, tiny, pruning={"site": ["ffn_out", "text_ffn"]}, outputs={"deltas": True}
        )
    )
    worker = Worker(Store(str(tmp_path / "store")), prepared.model)
    plan = plan_here(prepared)
    for unit in (*prompts_units(prepared.manifest), *plan.units()):
        worker.run(unit)
    mask = read_mask(worker.store, plan.concepts[0].mask.key)
    model = worker.denoiser
    assert mask.layers.keys() == model.site_linears(["ffn_out", "text_ffn"]).keys()
    assert mask.components == (model.component, *sorted(model.text_encoders()))
    assert PruningMask.from_bytes(mask.to_bytes()).to_bytes() == mask.to_bytes()
    deltas = worker.store.get("checkpoint", plan.concepts[0].checkpoints[0].key).objects
    others = (f"delta.{component}" for component in mask.components[1:])
    assert set(deltas) == {"delta", *others}
    assert sizes_of(prepared).shapes == {
        layer: (part.shape[0], part.shape[1] - part.first_column)
        for layer, part in mask.layers.items()
    }

    encoder = model.pipe.text_encoder
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    with pytest.raises(UserError, match="apply it to the whole pipeline"):
        mask.apply(model.denoiser)
    mask.apply(model.pipe)
    assert any(not torch.equal(before[name], t) for name, t in encoder.state_dict().items())
    mask.remove(model.pipe)
    assert all(torch.equal(before[name], t) for name, t in encoder.state_dict().items())


def test_a_site_of_ones_own_is_a_regular_expression(model: DiffusionModel) -> None:
    (first, *_) = model.site_linears(["ffn_out"])
    pattern = "re:" + first.replace(".", r"\.")
    assert list(model.site_linears([pattern])) == [first]
    with pytest.raises(UserError, match=r"no module of .* matches 'nothing'"):
        model.site_linears(["re:nothing"])


def test_a_matching_module_that_is_no_linear_is_named(model: DiffusionModel) -> None:
    (first, *_) = model.site_linears(["ffn_out"])
    block = first.rsplit(".", 1)[0]
    with pytest.raises(UserError, match=f"module {block} is a .*, not an nn.Linear"):
        model.site_linears([f"re:{block}"])


def test_an_unknown_site_names_those_there_are(model: DiffusionModel) -> None:
    with pytest.raises(UserError, match=r"has no mlp; it has ffn_out, ffn_in, .*'re:'"):
        model.site_linears(["mlp"])
