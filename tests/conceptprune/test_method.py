"""`find_mask` on a loaded pipeline: the job's mask, and the pipeline is left as it was."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from diffusers import StableDiffusionPipeline

import conceptprune
from conceptprune import (
    Concept,
    Evidence,
    ModelMismatchError,
    Prompt,
    PruningMask,
    Statistics,
    UserError,
    named_selector,
)
from conceptprune.digest import canonical_json
from conceptprune.manifest import Collection
from conceptprune.store import Store
from conceptprune.units.prompts_units import prompts_units
from conceptprune.units.results import read_mask
from conceptprune.units.units import StatisticsUnit, WindowUnit
from pipelines.jobs.preparation import plan_here, prepare
from tests.conceptprune.models.test_other import FFN
from tests.conceptprune.models.test_other import LCM as UNKNOWN
from tests.pipelines.conftest import worker_of, write_manifest
from tests.support.sd15_shaped import build_pipeline
from tests.support.tiny_models import ONE_A_FAMILY, STEPS, TinyModel

pytestmark = pytest.mark.slow

THINGS = ["cat", "car", "tree"]
QUICK: dict[str, Any] = {"steps": 4, "tau": 3, "batch_size": 2, "sparsity": 0.02}
PAIRS = [("a photo of a cat", "a cat by Ada Bell"), ("a photo of a car", "a car by Ada Bell")]


def entries(mask: PruningMask) -> dict[str, list[int]]:
    return {name: layer.entries.tolist() for name, layer in mask.layers.items()}


@pytest.mark.parametrize(
    ("pruning", "asked"),
    [
        ({"sparsity": 0.02}, {}),
        (
            {"selector": "fia", "r2": 0.05, "site": ["ffn_in", "text_ffn"]},
            {
                "selector": named_selector("fia", r2=0.05),
                "sparsity": None,
                "site": ["ffn_in", "text_ffn"],
            },
        ),
    ],
    ids=["conceptprune", "fia, two sites"],
)
def test_it_is_the_mask_that_a_job_makes_in_shards_and_windows(
    tmp_path: Path, tiny_folder: Path, pruning: dict[str, Any], asked: dict[str, Any]
) -> None:
    concepts = [{"name": "Ada Bell", "kind": "style"}]
    prepared = prepare(
        write_manifest(tmp_path / "m.yaml", tiny_folder, concepts=concepts, pruning=pruning)
    )
    plan = plan_here(prepared)
    store = Store(str(tmp_path / "store"))
    worker = worker_of(prepared, store)
    (concept,) = plan.concepts
    collected = [unit for unit in plan.units() if isinstance(unit, WindowUnit | StatisticsUnit)]
    for unit in (*prompts_units(prepared.manifest), *collected, concept.mask):
        worker.run(unit)

    pipe = StableDiffusionPipeline.from_pretrained(tiny_folder)
    ada = Concept.model_validate({"name": "Ada Bell", "kind": "style", "fillers": THINGS})
    found = conceptprune.find_mask(pipe, ada, **{**QUICK, **asked})

    made = read_mask(store, concept.mask.key)
    assert entries(found) == entries(made)
    assert found.num_entries
    assert found.components == made.components
    for name, layer in made.layers.items():
        assert found.layers[name].weight_digest == layer.weight_digest
    facts = json.loads(canonical_json(found.provenance))
    for fact in ("prompts_digest", "selection", "selector", "timesteps", "site", "collection"):
        assert facts[fact] == made.provenance[fact]


@pytest.mark.parametrize("tiny", [*ONE_A_FAMILY, UNKNOWN], ids=lambda tiny: tiny.name)
def test_in_every_family_it_leaves_the_pipeline_as_it_was(tiny: TinyModel) -> None:
    pipe = tiny.pipeline()
    shift = {"mu": 0.5} if pipe.scheduler.config.get("use_dynamic_shifting") else {}
    pipe.scheduler.set_timesteps(7, **shift)
    first, *_ = modules(pipe)
    first.train()
    before = state(pipe)

    mask = conceptprune.find_mask(
        pipe,
        "Ada Bell",
        pairs=PAIRS,
        steps=STEPS,
        tau=2,
        selector=named_selector("conceptprune", sparsity=0.02, min_per_row=1),
        resolution=tiny.resolution,
        site=FFN if tiny is UNKNOWN else "ffn_out",
    )

    assert state(pipe) == before
    assert mask.num_entries
    mask.apply(pipe)
    assert mask.is_applied(pipe)
    mask.remove(pipe)
    assert state(pipe) == before


def modules(pipe: Any) -> list[torch.nn.Module]:
    return [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]


def state(pipe: Any) -> dict[str, Any]:
    """All that a caller may rely on: objects, weights, modes, devices, hooks, the scheduler."""
    parts = [module for part in modules(pipe) for module in part.modules()]
    return {
        "attributes": {name: id(value) for name, value in vars(pipe).items()},
        "scheduler": repr(sorted(vars(pipe.scheduler).items())),
        "modes": [module.training for module in parts],
        "hooks": [
            hook
            for module in parts
            for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
            # Text encoders install some of their own, once, whoever calls them first.
            if not getattr(hook, "__module__", "").startswith("transformers.")
        ],
        "weights": [
            (name, tensor.device, tensor.dtype, tensor.numpy().tobytes())
            for part in modules(pipe)
            for name, tensor in part.state_dict().items()
        ],
    }


def test_what_was_stored_can_be_selected_from_in_another_process(
    tmp_path: Path, tiny_pipe: StableDiffusionPipeline, found: PruningMask
) -> None:
    settings = Collection(steps=4, tau=3, batch_size=2)
    sides = {}
    for side, texts in zip(("base", "target"), zip(*PAIRS, strict=True), strict=True):
        prompts = [Prompt(text=text, seed=0) for text in texts]
        statistics = conceptprune.collect(tiny_pipe, prompts, settings)
        pq.write_table(statistics.to_arrow(), tmp_path / f"{side}.parquet")
        sides[side] = Statistics.from_arrow(pq.read_table(tmp_path / f"{side}.parquet"))

    selector = named_selector("conceptprune", sparsity=0.02)
    mask = conceptprune.select(tiny_pipe, Evidence(**sides), selector, concept="Ada Bell")

    assert mask.concepts == ("Ada Bell",)
    assert entries(mask) == entries(found)


def test_a_function_of_ones_own_selects(tiny_pipe: StableDiffusionPipeline) -> None:
    def first_column(layer: str, weight: torch.Tensor, evidence: Evidence) -> np.ndarray:
        assert evidence.target.layers[layer].sum_sq.shape == (3, weight.shape[1])
        return np.arange(weight.shape[1]) == np.zeros((weight.shape[0], 1))

    asked = {**QUICK, "sparsity": None}
    mask = conceptprune.find_mask(
        tiny_pipe, "Ada Bell", pairs=PAIRS, selector=first_column, **asked
    )
    for layer in mask.layers.values():
        assert layer.entries.tolist() == list(
            range(0, layer.shape[0] * layer.shape[1], layer.shape[1])
        )
    assert mask.provenance["selector"] == "first_column"


@pytest.fixture(scope="module")
def found() -> PruningMask:
    """Ada Bell's mask of the tiny pipeline as it comes."""
    return conceptprune.find_mask(build_pipeline(), "Ada Bell", pairs=PAIRS, **QUICK)


def never(*_: object) -> None:
    """A backend that shows that compiled code would have been run, which calls no new hooks."""
    raise AssertionError("compiled code")


def compile_whole(pipe: StableDiffusionPipeline) -> None:
    pipe.unet = torch.compile(pipe.unet, backend=never)


def compile_in_place(pipe: StableDiffusionPipeline) -> None:
    pipe.unet.compile(backend=never)


def compile_a_block(pipe: StableDiffusionPipeline) -> None:
    pipe.unet.mid_block = torch.compile(pipe.unet.mid_block, backend=never)


def compile_blocks_in_place(pipe: StableDiffusionPipeline) -> None:
    pipe.unet.compile_repeated_blocks(backend=never)


@pytest.mark.parametrize(
    "compiler", [compile_whole, compile_in_place, compile_a_block, compile_blocks_in_place]
)
def test_of_a_compiled_denoiser_the_same_mask_is_found(
    tiny_pipe: StableDiffusionPipeline,
    found: PruningMask,
    compiler: Callable[[StableDiffusionPipeline], None],
) -> None:
    compiler(tiny_pipe)

    def compiled() -> list[object]:
        parts = tiny_pipe.unet.named_modules()
        return [(name, module, module._compiled_call_impl) for name, module in parts]

    before = compiled()

    mask = conceptprune.find_mask(tiny_pipe, "Ada Bell", pairs=PAIRS, **QUICK)

    assert entries(mask) == entries(found)
    assert compiled() == before
    mask.apply(tiny_pipe)
    mask.remove(tiny_pipe)


@pytest.mark.parametrize("whole", [False, True], ids=["injected", "PeftModel"])
def test_with_a_lora_the_mask_is_of_the_base_weights_by_what_the_lora_makes_of_them(
    tiny_pipe: StableDiffusionPipeline, found: PruningMask, whole: bool
) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["ff.net.2", "to_k", "to_q"])
    if whole:
        tiny_pipe.unet = peft.get_peft_model(tiny_pipe.unet, config)
    else:
        tiny_pipe.unet.add_adapter(config)
    wrapped = tiny_pipe.unet
    # A new LoRA adds nothing, so that what is seen is what the base does.
    assert (
        conceptprune.find_mask(tiny_pipe, "Ada Bell", pairs=PAIRS, **QUICK).layers == found.layers
    )

    torch.manual_seed(0)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    mask = conceptprune.find_mask(tiny_pipe, "Ada Bell", pairs=PAIRS, **QUICK)
    assert tiny_pipe.unet is wrapped
    assert entries(mask) != entries(found)
    assert [layer.weight_digest for layer in mask.layers.values()] == [
        layer.weight_digest for layer in found.layers.values()
    ]
    with mask.applied(tiny_pipe):
        assert mask.is_applied(tiny_pipe)
        with pytest.raises(UserError, match="masks are applied to this pipeline"):
            conceptprune.find_mask(tiny_pipe, "Ada Bell", pairs=PAIRS, **QUICK)


def offload(pipe: StableDiffusionPipeline) -> None:
    accelerate.cpu_offload(pipe.unet, torch.device("cpu"))


def mask_it(pipe: StableDiffusionPipeline) -> None:
    conceptprune.find_mask(pipe, "Cy Dow", pairs=PAIRS, **QUICK).apply(pipe)


@pytest.fixture(scope="module")
def shared_pipe() -> StableDiffusionPipeline:
    """For what is refused before anything is done to it."""
    return build_pipeline()


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        ({"sparsity": 2.0}, "sparsity: found 2.0, allowed is a number above 0"),
        ({"tau": 9}, "tau: found 9, allowed is at most collection.steps, which is 4"),
        ({"steps": "4"}, "steps: found '4', allowed is a whole number"),
        ({"guidance": 0.5}, "guidance: found 0.5, allowed is a number of at least 1"),
        ({"seed": -1}, "seed: found -1, allowed is a whole number"),
        ({"site": "ffn_ut"}, "site: found 'ffn_ut', allowed is one of ffn_out"),
        ({"site": "re:nowhere"}, "no module of UNet2DConditionModel matches 'nowhere'"),
        ({"kind": "stile"}, "kind: found 'stile', .*nearest: style"),
        ({"kind": "bias", "pairs": None}, "direction: found None"),
        ({"pairs": ["a cat"]}, "pairs: each must be a .base, target. pair"),
        ({"pairs": []}, "prompts: found .., allowed is a list of at least one"),
        ({"selector": "fai", "sparsity": None}, "selector: found 'fai'.*nearest: fia"),
        ({"selector": lambda *_: []}, "sparsity: .* another selector is given"),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_denoising(
    shared_pipe: StableDiffusionPipeline, asked: dict[str, Any], problem: str
) -> None:
    check_refused(shared_pipe, problem, **asked)


@pytest.mark.parametrize(
    ("prepare_pipe", "problem"),
    [
        (mask_it, "masks are applied to this pipeline.*take them off first"),
        (offload, "are not in memory.*find the mask before that"),
    ],
)
def test_a_pipeline_that_is_masked_or_offloaded_is_refused_before_any_denoising(
    tiny_pipe: StableDiffusionPipeline,
    prepare_pipe: Callable[[StableDiffusionPipeline], None],
    problem: str,
) -> None:
    prepare_pipe(tiny_pipe)
    check_refused(tiny_pipe, problem)


def check_refused(pipe: StableDiffusionPipeline, problem: str, **asked: Any) -> None:
    calls: list[object] = []
    handle = pipe.unet.register_forward_pre_hook(lambda module, _: calls.append(module))
    with pytest.raises(UserError, match=problem):
        conceptprune.find_mask(pipe, "Ada Bell", **{"pairs": PAIRS, **QUICK, **asked})
    handle.remove()
    assert not calls


def test_something_else_than_a_pipeline_is_refused(tiny_pipe: StableDiffusionPipeline) -> None:
    with pytest.raises(UserError, match=r"a diffusers pipeline is needed.* this is a UNet2D"):
        conceptprune.find_mask(tiny_pipe.unet, "Ada Bell")


def test_statistics_of_another_model_are_refused(tiny_pipe: StableDiffusionPipeline) -> None:
    prompts = [Prompt(text="a cat", seed=0)]
    statistics = conceptprune.collect(tiny_pipe, prompts, Collection(steps=4, tau=1))
    of_no_layer = Statistics(
        first_call=0,
        timesteps=statistics.timesteps,
        num_prompts=1,
        layers={"elsewhere.ff.net.2": next(iter(statistics.layers.values()))},
    )
    with pytest.raises(ModelMismatchError, match=r"no linear elsewhere\.ff\.net\.2"):
        conceptprune.select(
            tiny_pipe, Evidence(target=of_no_layer, base=of_no_layer), concept="Ada Bell"
        )


@pytest.mark.parametrize("component", ["unet", "text_encoder"])
def test_a_mask_of_before_is_known_in_half_a_pipelines_precision_by_its_folder(
    tiny_folder: Path, component: str
) -> None:
    site = {"unet": "ffn_out", "text_encoder": "text_ffn"}[component]
    pipe = StableDiffusionPipeline.from_pretrained(tiny_folder)
    mask = conceptprune.find_mask(pipe, "Ada Bell", pairs=PAIRS, **QUICK, site=site)
    layers = {name: replace(layer, rounded_digests=()) for name, layer in mask.layers.items()}
    old = replace(mask, layers=layers)
    coarse = StableDiffusionPipeline.from_pretrained(tiny_folder, torch_dtype=torch.bfloat16)
    old.apply(coarse)
    assert old.is_applied(coarse)
    old.remove(coarse)
    # Alone, the weights do not tell.
    getattr(coarse, component).config._name_or_path = ""
    with pytest.raises(ModelMismatchError, match="in another precision, bfloat16"):
        old.apply(coarse)


HALVES = [torch.float16, torch.bfloat16]


@pytest.mark.parametrize("made_in", HALVES)
@pytest.mark.parametrize("select_again", [False, True])
def test_a_mask_found_in_half_precision_fits_its_model_in_every_precision(
    tiny_folder: Path, made_in: torch.dtype, select_again: bool
) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(tiny_folder, torch_dtype=made_in)
    mask = conceptprune.find_mask(pipe, "Ada Bell", pairs=PAIRS, **QUICK)
    if select_again:
        texts = (text for pair in PAIRS for text in pair[::-1])
        target, base = (
            conceptprune.collect(
                pipe, [Prompt(text=next(texts), seed=0)], Collection(steps=4, tau=2)
            )
            for _ in range(2)
        )
        mask = conceptprune.select(pipe, Evidence(target=target, base=base), concept="Ada Bell")
    for dtype in (torch.float32, *HALVES):
        live = StableDiffusionPipeline.from_pretrained(tiny_folder, torch_dtype=dtype)
        # The mask itself knows the weights, wherever they come from.
        live.unet.config._name_or_path = ""
        mask.apply(live)
        assert mask.is_applied(live)


@pytest.mark.parametrize("made_in", HALVES)
def test_a_mask_found_without_the_models_files_is_compared_by_them_or_says_what_it_cannot_know(
    tiny_folder: Path, made_in: torch.dtype
) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(tiny_folder, torch_dtype=made_in)
    pipe.unet.config._name_or_path = ""
    mask = conceptprune.find_mask(pipe, "Ada Bell", pairs=PAIRS, **QUICK)
    for dtype in (torch.float32, *HALVES):
        live = StableDiffusionPipeline.from_pretrained(tiny_folder, torch_dtype=dtype)
        mask.apply(live)
        mask.remove(live)
        name = f"{next(iter(mask.layers))}.weight"
        with torch.no_grad():
            live.unet.get_parameter(name)[0] *= 3
        with pytest.raises(ModelMismatchError, match="has other weights"):
            mask.apply(live)
    (other,) = set(HALVES) - {made_in}
    live = StableDiffusionPipeline.from_pretrained(tiny_folder, torch_dtype=other)
    live.unet.config._name_or_path = ""
    with pytest.raises(
        ModelMismatchError, match=f"in another precision, {str(other)[6:]}, .* tells"
    ):
        mask.apply(live)
