"""The library picks the same weights as a plain float64 reading of the method.

Entries may differ only where float32 arithmetic cannot decide: where a score is within rounding of
its row's cut, or where the target's norm is within rounding of the base's.
"""

import itertools
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

import conceptprune
from conceptprune import Collection, Concept, Evidence, Prompt, PruningMask, named_selector
from conceptprune.masks.layer_mask import LayerMask
from conceptprune.models.weights import weight_digest
from tests.fidelity import reference
from tests.fidelity.reference import Activations, ReferenceMask, RowNorms
from tests.support.sd15_shaped import NUM_TRANSFORMER_BLOCKS, build_pipeline

THINGS = ("cat", "car", "tree")
BASE = [(f"a photo of a {thing}", seed) for seed, thing in enumerate(THINGS)]
TARGET = [(f"a {thing} in the style of Ada Bell", seed) for seed, thing in enumerate(THINGS)]
TAU = 10
SPARSITIES = (0.01, 0.05)
BATCH_SIZES = (1, 2)
"""Each prompt alone, and a batch that is full beside one that is not."""

ROUNDING = 5e-5
"""Relative difference below which two float32 results count as equal: the denoiser's own rounding,
which batch sizes change, grows to 1e-5 over ten calls."""
MAX_TIES = 0.002
"""Entries that may differ, as a fraction of the mask."""

Norms = tuple[RowNorms, RowNorms]
"""(base, target)."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pipe() -> StableDiffusionPipeline:
    return build_pipeline()


Observed = tuple[list[Activations], list[Activations]]
"""(base, target)."""
ReferenceMasks = Callable[..., dict[str, ReferenceMask]]


@pytest.fixture(scope="module")
def observed(pipe: StableDiffusionPipeline) -> Observed:
    base, target = (reference.observe(pipe, prompts, tau=TAU) for prompts in (BASE, TARGET))
    return base, target


@pytest.fixture(scope="module")
def reference_masks(pipe: StableDiffusionPipeline, observed: Observed) -> ReferenceMasks:
    """Makes each of the exact masks once."""
    return cache(partial(_reference_masks, pipe, _norms(observed)))


@pytest.fixture(
    scope="module",
    params=[{"normalise_rows": False}, {"num_branches": 1}],
    ids=["row norms left out", "one branch left out"],
)
def mutilated_norms(observed: Observed, request: pytest.FixtureRequest) -> Norms:
    return _norms(observed, **request.param)


def _norms(observed: Observed, *, normalise_rows: bool = True, num_branches: int = 2) -> Norms:
    base, target = (
        reference.neuron_norms(side, normalise_rows=normalise_rows, num_branches=num_branches)
        for side in observed
    )
    return base, target


def _reference_masks(
    pipe: StableDiffusionPipeline, norms: Norms, *, sparsity: float, tau: int, threshold: float = 0
) -> dict[str, ReferenceMask]:
    base, target = ({name: calls[:tau] for name, calls in side.items()} for side in norms)
    return reference.masks_from_norms(
        reference.weights(pipe),
        base=base,
        target=target,
        sparsity=sparsity,
        threshold=threshold,
        rounding=ROUNDING,
    )


Masks = dict[str, Tensor]


@pytest.fixture(scope="module")
def evidence(pipe: StableDiffusionPipeline) -> Callable[[int, int], Evidence]:
    """Collect once for each (tau, batch size)."""
    return cache(partial(_collect, pipe))


def _collect(pipe: Any, tau: int, batch_size: int) -> Evidence:
    settings = Collection(tau=tau, batch_size=batch_size)
    base, target = (
        conceptprune.collect(pipe, [Prompt(text=text, seed=seed) for text, seed in side], settings)
        for side in (BASE, TARGET)
    )
    return Evidence(target=target, base=base)


def _library_masks(
    pipe: StableDiffusionPipeline, evidence: Evidence, *, sparsity: float, threshold: float = 0.0
) -> Masks:
    selector = named_selector("conceptprune", sparsity=sparsity, threshold=threshold)
    return _as_tensors(conceptprune.select(pipe, evidence, selector, concept="Ada Bell"))


def _as_tensors(mask: PruningMask) -> Masks:
    masks = {}
    for name, layer in mask.layers.items():
        masks[name] = torch.zeros(layer.shape, dtype=torch.bool)
        masks[name].view(-1)[layer.entries] = True
    return masks


def _assert_same(masks: Masks, expected: dict[str, ReferenceMask]) -> None:
    assert masks.keys() == expected.keys()
    for name, mask in masks.items():
        missing = expected[name].certain & ~mask
        extra = mask & ~expected[name].possible
        assert not missing.any(), f"{name}: {missing.sum()} clear entries are missing"
        assert not extra.any(), f"{name}: {extra.sum()} entries should not be there"
    ties = sum(int((masks[name] ^ expected[name].selected).sum()) for name in masks)
    assert ties <= MAX_TIES * _count({name: mask.selected for name, mask in expected.items()})


def _count(masks: Masks) -> int:
    return sum(int(mask.sum()) for mask in masks.values())


def test_the_pipeline_is_shaped_and_scheduled_like_sd15(pipe: StableDiffusionPipeline) -> None:
    timesteps: list[int] = []
    hook = pipe.unet.register_forward_pre_hook(lambda _module, args: timesteps.append(int(args[1])))

    def stop(pipe: Any, step: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        pipe._interrupt = step == 3
        return kwargs

    pipe("a photo of a cat", output_type="latent", callback_on_step_end=stop)
    hook.remove()

    assert len(reference.layers(pipe)) == NUM_TRANSFORMER_BLOCKS
    assert len(pipe.scheduler.timesteps) == 51
    assert timesteps == [981, 961, 961, 941]


@pytest.mark.parametrize("batch_size", BATCH_SIZES)
@pytest.mark.parametrize(("sparsity", "tau"), list(itertools.product(SPARSITIES, (1, TAU))))
def test_masks_equal_the_reference(
    pipe: StableDiffusionPipeline,
    reference_masks: ReferenceMasks,
    evidence: Callable[[int, int], Evidence],
    sparsity: float,
    tau: int,
    batch_size: int,
) -> None:
    masks = _library_masks(pipe, evidence(tau, batch_size), sparsity=sparsity)

    _assert_same(masks, reference_masks(sparsity=sparsity, tau=tau))


def test_a_mask_in_one_call_equals_the_reference(
    pipe: StableDiffusionPipeline, reference_masks: ReferenceMasks
) -> None:
    pairs = [
        {"base": base, "target": target, "seed": seed}
        for (base, seed), (target, _) in zip(BASE, TARGET, strict=True)
    ]
    concept = Concept.model_validate({"name": "Ada Bell", "kind": "style", "prompts": pairs})

    mask = conceptprune.find_mask(pipe, concept, sparsity=0.05, tau=TAU)

    _assert_same(_as_tensors(mask), reference_masks(sparsity=0.05, tau=TAU))


def test_masks_with_a_threshold_equal_the_reference(
    pipe: StableDiffusionPipeline,
    reference_masks: ReferenceMasks,
    evidence: Callable[[int, int], Evidence],
) -> None:
    masks = _library_masks(pipe, evidence(TAU, 2), sparsity=0.05, threshold=0.5)

    _assert_same(masks, reference_masks(sparsity=0.05, tau=TAU, threshold=0.5))


def test_a_saved_and_loaded_model_gives_the_same_masks(
    pipe: StableDiffusionPipeline, reference_masks: ReferenceMasks, tmp_path: Path
) -> None:
    pipe.save_pretrained(tmp_path)

    loaded = StableDiffusionPipeline.from_pretrained(tmp_path)
    masks = _library_masks(loaded, _collect(loaded, TAU, 2), sparsity=0.05)

    _assert_same(masks, reference_masks(sparsity=0.05, tau=TAU))


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_the_comparison_notices_a_part_left_out(
    pipe: StableDiffusionPipeline,
    reference_masks: ReferenceMasks,
    mutilated_norms: Norms,
    sparsity: float,
) -> None:
    exact = reference_masks(sparsity=sparsity, tau=TAU)
    wrong = _reference_masks(pipe, mutilated_norms, sparsity=sparsity, tau=TAU)

    moved = {name: exact[name].selected ^ wrong[name].selected for name in exact}

    assert _count(moved) > 0.05 * _count({name: mask.selected for name, mask in exact.items()})
    with pytest.raises(AssertionError):
        _assert_same({name: mask.selected for name, mask in wrong.items()}, exact)


def test_apply_then_remove_restores_every_byte(
    pipe: StableDiffusionPipeline, evidence: Callable[[int, int], Evidence]
) -> None:
    before = _bytes(pipe)
    selector = named_selector("conceptprune", sparsity=0.05)
    mask = conceptprune.select(pipe, evidence(TAU, 2), selector, concept="Ada Bell")
    masks = _as_tensors(mask)

    mask.apply(pipe)
    for name, linear in reference.layers(pipe).items():
        assert (linear.weight[masks[name]] == 0).all()
    during = _bytes(pipe)
    mask.remove(pipe)

    assert during != before
    assert _bytes(pipe) == before


def test_an_empty_mask_changes_no_byte_of_any_output(pipe: StableDiffusionPipeline) -> None:
    nothing = _empty_mask(pipe)
    weights_before, images_before = _bytes(pipe), _images(pipe)

    nothing.apply(pipe)
    weights_after, images_after = _bytes(pipe), _images(pipe)
    nothing.remove(pipe)

    assert weights_after == weights_before
    assert images_after == images_before


def _empty_mask(pipe: StableDiffusionPipeline) -> PruningMask:
    return PruningMask(
        concepts=("Ada Bell",),
        component="unet",
        layers={
            name: LayerMask(
                shape=(weight.shape[0], weight.shape[1]),
                entries=np.empty(0, np.int64),
                weight_digest=weight_digest(weight),
            )
            for name, weight in reference.weights(pipe).items()
        },
        provenance={},
    )


def _bytes(pipe: StableDiffusionPipeline) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in pipe.unet.state_dict().items()}


def _images(pipe: StableDiffusionPipeline) -> bytes:
    images = pipe(
        [text for text, _ in TARGET[:2]],
        num_inference_steps=3,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).images
    return np.ascontiguousarray(images).tobytes()
