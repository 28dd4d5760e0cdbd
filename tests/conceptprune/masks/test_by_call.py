"""Masks by denoiser call: each is on at its own call, in every image, and leaves nothing behind."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

import conceptprune
from conceptprune import Collection, Evidence, MasksByCall, Prompt, UserError
from tests.support.sd15_shaped import build_pipeline

pytestmark = pytest.mark.slow

TAU, STEPS = 3, 4


@pytest.fixture(scope="module")
def found() -> tuple[Evidence, MasksByCall]:
    pipe = build_pipeline()
    settings = Collection(steps=STEPS, tau=TAU)
    target, base = (
        conceptprune.collect(pipe, [Prompt(text=text, seed=0)], settings)
        for text in ("a cat by Ada Bell", "a photo of a cat")
    )
    evidence = Evidence(target=target, base=base)
    return evidence, conceptprune.select_by_call(pipe, evidence, concept="Ada Bell")


@pytest.fixture
def masks(found: tuple[Evidence, MasksByCall]) -> MasksByCall:
    return found[1]


def weights(pipe: StableDiffusionPipeline) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in pipe.unet.state_dict().items()}


def generate(pipe: StableDiffusionPipeline, steps: int = STEPS) -> torch.Tensor:
    noise = torch.Generator().manual_seed(0)
    return pipe("a cat", num_inference_steps=steps, generator=noise, output_type="latent").images


def seen_at_calls(pipe: StableDiffusionPipeline) -> Iterator[dict[str, torch.Tensor]]:
    """The weights as each denoiser call of an image finds them."""
    seen: list[dict[str, torch.Tensor]] = []
    handle = pipe.unet.register_forward_pre_hook(lambda *_: seen.append(weights(pipe)))
    generate(pipe)
    handle.remove()
    return iter(seen)


def test_together_they_are_the_mask_of_all_calls(
    found: tuple[Evidence, MasksByCall], tiny_pipe: StableDiffusionPipeline
) -> None:
    evidence, masks = found
    assert len(masks.masks) == TAU
    whole = conceptprune.select(tiny_pipe, evidence, concept="Ada Bell")
    for name, layer in whole.layers.items():
        each = [mask.layers[name].entries for mask in masks.masks]
        assert np.array_equal(np.unique(np.concatenate(each)), layer.entries)
    assert any(mask.num_entries < whole.num_entries for mask in masks.masks)


def test_each_is_on_at_its_call_in_every_image_and_none_after(
    masks: MasksByCall, tiny_pipe: StableDiffusionPipeline
) -> None:
    before = weights(tiny_pipe)
    untouched = generate(tiny_pipe)
    with masks.applied(tiny_pipe):
        for _ in range(2):
            calls = list(seen_at_calls(tiny_pipe))
            assert len(calls) == STEPS + 1  # PNDM makes one more, at a timestep it repeats.
            for call, found in enumerate(calls):
                mask = masks.masks[call] if call < TAU else None
                for name in masks.masks[0].layers:
                    entries = mask.layers[name].entries if mask else []
                    expected = before[f"{name}.weight"].clone()
                    expected.view(-1)[entries] = 0
                    assert torch.equal(found[f"{name}.weight"], expected)
        assert masks.is_applied(tiny_pipe)
        assert not torch.equal(generate(tiny_pipe), untouched)
    assert not masks.is_applied(tiny_pipe)
    assert torch.equal(generate(tiny_pipe), untouched)
    assert not {"step", "set_timesteps"} & vars(tiny_pipe.scheduler).keys()


def test_after_an_image_of_fewer_calls_and_after_one_that_failed_no_weight_is_missing(
    masks: MasksByCall, tiny_pipe: StableDiffusionPipeline
) -> None:
    before = weights(tiny_pipe)

    def same() -> bool:
        return all(torch.equal(before[name], now) for name, now in weights(tiny_pipe).items())

    with masks.applied(tiny_pipe):
        generate(tiny_pipe, steps=1)
        assert same()

    def fail(*_: object) -> None:
        raise RuntimeError("no memory left")

    tiny_pipe.unet.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="no memory left"), masks.applied(tiny_pipe):
        generate(tiny_pipe)
    assert same()


def test_they_are_refused_twice_and_by_what_is_no_pipeline(
    masks: MasksByCall, tiny_pipe: StableDiffusionPipeline
) -> None:
    with pytest.raises(UserError, match="need a whole pipeline"):
        masks.apply(tiny_pipe.unet)
    with pytest.raises(UserError, match="not applied"):
        masks.remove(tiny_pipe)
    masks.apply(tiny_pipe)
    with pytest.raises(UserError, match="applied to this pipeline already"):
        masks.apply(tiny_pipe)
    masks.remove(tiny_pipe)
    with pytest.raises(UserError, match="no mask is given"):
        MasksByCall(())


def test_they_are_saved_and_loaded(masks: MasksByCall, tmp_path: Path) -> None:
    masks.save(tmp_path / "masks")
    again = conceptprune.load_masks_by_call(tmp_path / "masks")
    assert [mask.digest for mask in again.masks] == [mask.digest for mask in masks.masks]
    with pytest.raises(UserError, match="cannot make the folder"):
        masks.save(tmp_path / "masks")
    (tmp_path / "masks" / "call-001.safetensors").unlink()
    with pytest.raises(UserError, match="no complete set"):
        conceptprune.load_masks_by_call(tmp_path / "masks")
