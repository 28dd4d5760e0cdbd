"""Masks by denoiser call: each is on at its own call, in every image, and leaves nothing behind."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

import conceptprune
from conceptprune import Collection, Evidence, MasksByCall, Prompt, UserError
from tests.support.sd15_shaped import build_pipeline
from tests.support.threads import in_threads
from tests.support.tiny_models import ONE_A_FAMILY

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


@pytest.mark.parametrize("name", ["sdxl", "sd3", "flux-dev"])
def test_in_other_families_each_is_on_at_its_call_too(name: str) -> None:
    (tiny,) = (tiny for tiny in ONE_A_FAMILY if tiny.name == name)
    pipe = tiny.pipeline()
    settings = Collection(steps=STEPS, tau=2, resolution=tiny.resolution)
    target, base = (
        conceptprune.collect(pipe, [Prompt(text=text, seed=0)], settings)
        for text in ("a cat by Ada Bell", "a photo of a cat")
    )
    masks = conceptprune.select_by_call(
        pipe, Evidence(target=target, base=base), concept="Ada Bell"
    )
    on: list[list[bool]] = []
    denoiser = getattr(pipe, masks.masks[0].component)
    denoiser.register_forward_pre_hook(
        lambda *_: on.append([mask.is_applied(pipe) for mask in masks.masks])
    )
    with masks.applied(pipe):
        size = {"height": tiny.resolution, "width": tiny.resolution} if tiny.resolution else {}
        pipe("a cat", num_inference_steps=STEPS, output_type="latent", **size)
    assert on == [[True, False], [False, True], *[[False, False]] * (STEPS - 2)]


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


def test_threads_that_each_generate_with_their_own_masks_by_call_get_the_images_of_one_thread(
    masks: MasksByCall, tiny_pipe: StableDiffusionPipeline, hasty_threads: None
) -> None:
    before = weights(tiny_pipe)
    others = MasksByCall(masks.masks[::-1])
    mine = (masks, masks.masks[1], others)
    expected = []
    for each in mine:
        with each.applied(tiny_pipe):
            expected.append(generate(tiny_pipe, steps=2))
    assert not torch.equal(expected[0], expected[2])

    def work(index: int) -> None:
        for _ in range(2):
            with mine[index].applied(tiny_pipe):
                assert torch.equal(generate(tiny_pipe, steps=2), expected[index])

    in_threads(work, len(mine))
    assert all(torch.equal(before[name], now) for name, now in weights(tiny_pipe).items())


def test_threads_that_apply_remove_and_turn_at_once_leave_no_weight_missing(
    masks: MasksByCall, tiny_pipe: StableDiffusionPipeline, hasty_threads: None
) -> None:
    before = weights(tiny_pipe)
    scheduler = tiny_pipe.scheduler

    def work(index: int) -> None:
        for _ in range(6):
            with suppress(UserError):
                if index == 0:
                    with masks.masks[0].applied(tiny_pipe):
                        pass
                else:
                    masks.apply(tiny_pipe)
                    scheduler.set_timesteps(STEPS)
                    masks.remove(tiny_pipe)

    in_threads(work, 4)
    with suppress(UserError):
        masks.remove(tiny_pipe)
    assert all(torch.equal(before[name], now) for name, now in weights(tiny_pipe).items())
    assert not {"step", "set_timesteps"} & vars(scheduler).keys()


def test_within_applied_an_image_may_come_from_another_thread(
    masks: MasksByCall, tiny_pipe: StableDiffusionPipeline
) -> None:
    with masks.applied(tiny_pipe):
        expected = generate(tiny_pipe)
        with ThreadPoolExecutor(1) as pool:
            assert torch.equal(pool.submit(generate, tiny_pipe).result(timeout=60), expected)


def test_a_pipeline_is_not_lent_for_statistics_while_a_task_generates_with_masks(
    masks: MasksByCall, tiny_pipe: StableDiffusionPipeline
) -> None:
    async def generates(inside: asyncio.Event, over: asyncio.Event) -> None:
        with masks.applied(tiny_pipe):
            inside.set()
            await over.wait()

    async def collects() -> None:
        inside, over = asyncio.Event(), asyncio.Event()
        once = Collection(steps=STEPS, tau=1)
        task = asyncio.create_task(generates(inside, over))
        await inside.wait()
        with pytest.raises(UserError, match="another task"):
            conceptprune.collect(tiny_pipe, [Prompt(text="a cat", seed=0)], once)
        over.set()
        await task

    asyncio.run(collects())


def test_another_scheduler_has_no_masks_until_they_are_applied_again(
    masks: MasksByCall, tiny_pipe: StableDiffusionPipeline
) -> None:
    before = weights(tiny_pipe)
    scheduler = tiny_pipe.scheduler
    masks.apply(tiny_pipe)
    tiny_pipe.scheduler.set_timesteps(STEPS)
    tiny_pipe.scheduler = DDIMScheduler.from_config(scheduler.config)
    assert not masks.is_applied(tiny_pipe)
    masks.apply(tiny_pipe)
    assert masks.is_applied(tiny_pipe)
    assert not {"step", "set_timesteps"} & vars(scheduler).keys()
    tiny_pipe.scheduler = scheduler
    assert not masks.is_applied(tiny_pipe)
    masks.remove(tiny_pipe)
    assert all(torch.equal(before[name], now) for name, now in weights(tiny_pipe).items())
    meanwhile = pytest.raises(UserError, match="given another scheduler meanwhile")
    with meanwhile, masks.applied(tiny_pipe):
        tiny_pipe.scheduler = DDIMScheduler.from_config(scheduler.config)
    assert "step" not in vars(scheduler)


def test_a_pipeline_that_shares_the_scheduler_shares_the_masks(
    masks: MasksByCall, tiny_pipe: StableDiffusionPipeline
) -> None:
    other = StableDiffusionPipeline(**tiny_pipe.components, requires_safety_checker=False)
    with masks.applied(tiny_pipe):
        assert masks.is_applied(other)
        assert torch.equal(generate(other), generate(tiny_pipe))
    assert not masks.is_applied(other)


def test_a_mask_that_was_on_before_its_call_stays_on_after_it(
    masks: MasksByCall, tiny_pipe: StableDiffusionPipeline
) -> None:
    (first, *_) = masks.masks
    first.apply(tiny_pipe)
    with masks.applied(tiny_pipe):
        generate(tiny_pipe)
    assert first.is_applied(tiny_pipe)


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
