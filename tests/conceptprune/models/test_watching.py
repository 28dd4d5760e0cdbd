"""Steps are counted, and the prompts' own branch is known, however a pipeline guides."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchLCMScheduler,
)

from conceptprune.collection.collect import collect
from conceptprune.errors import UserError
from conceptprune.manifest import Collection
from conceptprune.models.base import DenoiserCall
from conceptprune.models.other import NO_PROMPT, OtherPipeline
from conceptprune.models.prompt import Prompt
from conceptprune.models.watching import GuidanceBranches, SeenCall
from tests.support.guided_in_two_calls import built, chroma, cogview4, lumina2, qwen_image

pytestmark = pytest.mark.slow

STEPS, TAU, GUIDANCE, RESOLUTION = 4, 2, 3.0, 64
PROMPTS = [
    Prompt(text="a photo of a cat", seed=3),
    Prompt(text="two houses in the style of a dog", seed=4),
]
FFN = r"(.*\.)?(ff\.net\.2|feed_forward\.linear_2|img_mlp\.net\.2)"
CASES = [
    (chroma, {"guidance_scale": GUIDANCE}),
    (cogview4, {"guidance_scale": GUIDANCE}),
    (lumina2, {"guidance_scale": GUIDANCE}),
    (qwen_image, {"true_cfg_scale": GUIDANCE, "negative_prompt": [NO_PROMPT]}),
]
"""Pipelines whose every step is a call for the prompts, then one for the other branch."""


def seen_by(pipe: DiffusionPipeline, name: str, call: dict[str, Any]) -> list[np.ndarray]:
    """What the neurons of a linear see of the prompts [W], at each call the pipeline makes."""
    seen: list[Any] = []
    linear = pipe.transformer.get_submodule(name)

    def add(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        rows = inputs[0].double().flatten(0, -2)
        # A block may send image and text through it one after the other.
        seen[-1] += (rows / rows.norm(dim=1, keepdim=True)).square().sum(0).numpy()

    handles = [
        pipe.transformer.register_forward_pre_hook(lambda *_: seen.append(0.0)),
        linear.register_forward_pre_hook(add),
    ]
    negative = call.get("negative_prompt")
    try:
        pipe(
            [prompt.text for prompt in PROMPTS],
            num_inference_steps=STEPS,
            generator=[torch.Generator().manual_seed(prompt.seed) for prompt in PROMPTS],
            height=RESOLUTION,
            width=RESOLUTION,
            output_type="latent",
            **call | ({"negative_prompt": negative * len(PROMPTS)} if negative else {}),
        )
    finally:
        for handle in handles:
            handle.remove()
    return seen


@pytest.mark.parametrize(("build", "call"), CASES, ids=lambda value: getattr(value, "__name__", ""))
def test_two_calls_a_step_are_one_step_and_the_first_is_the_prompts_own(
    build: Callable[[], DiffusionPipeline], call: dict[str, Any]
) -> None:
    pipe = built(build)
    model = OtherPipeline(pipe, resolution=RESOLUTION)
    for branches, of_a_step in (("conditional", [0]), ("both", [0, 1])):
        settings = Collection(
            steps=STEPS,
            tau=TAU,
            guidance=GUIDANCE,
            guidance_branches=branches,  # type: ignore[arg-type]
            batch_size=2,
        )
        statistics = collect(model, PROMPTS, settings, site=f"re:{FFN}")
        name = max(statistics.layers)
        calls = seen_by(pipe, name, call)
        assert len(calls) == 2 * STEPS
        for step in range(TAU):
            expected = sum(calls[2 * step + branch] for branch in of_a_step)
            np.testing.assert_allclose(
                statistics.layers[name].sum_sq[step], expected, rtol=1e-3, atol=1e-6
            )
        norm = statistics.layers[name].sum_norm
        # The prompts' own norms over both branches: no more than their root of two times the sum.
        assert (norm**2 <= len(PROMPTS) * statistics.layers[name].sum_sq * (1 + 1e-6)).all()
    assert "step" not in vars(pipe.scheduler)


def test_a_pipeline_of_two_calls_a_step_is_left_after_the_steps_asked_for() -> None:
    pipe = built(chroma)
    model = OtherPipeline(pipe, resolution=RESOLUTION)
    made: list[None] = []
    told: list[DenoiserCall] = []
    pipe.transformer.register_forward_hook(lambda *_: made.append(None))
    batch = model.begin(PROMPTS, steps=STEPS, guidance=GUIDANCE)
    model.run(batch, TAU, told.append, tell_branches=False)
    assert len(made) == 2 * TAU
    assert [(call.number, call.continues) for call in told] == [
        (0, False),
        (0, True),
        (1, False),
        (1, True),
    ]
    with pytest.raises(UserError, match=r"only 4 with steps: 4"):
        model.run(batch, STEPS + 1, told.append, tell_branches=False)


NOTHING = torch.zeros(3, 2)


def seen(*texts: torch.Tensor, in_step: int = 0, together: bool = True) -> SeenCall:
    return SeenCall(
        step=0,
        in_step=in_step,
        timestep=1.0,
        samples=tuple({"text": text, "size": torch.ones(2)} for text in texts),
        together=together,
    )


def text(value: float, tokens: int = 3) -> torch.Tensor:
    return torch.full((tokens, 2), value)


def test_the_prompts_own_branch_is_known_wherever_it_is_in_the_batch() -> None:
    last = GuidanceBranches([seen(NOTHING, text(1))], [seen(NOTHING, text(2))])
    first = GuidanceBranches([seen(text(1), NOTHING)], [seen(text(2), NOTHING)])
    assert last.of(seen(NOTHING, NOTHING, text(3), text(4)), 2) == (False, True)
    assert first.of(seen(text(3), text(4), NOTHING, NOTHING), 2) == (True, False)
    # Padded to the length of the prompts beside it, the other branch is not what it was.
    assert first.of(seen(text(3, 5), text(4, 5), text(0, 5), text(0, 5)), 2) == (True, False)
    # A prompt that says nothing is still the prompts' own.
    assert first.of(seen(NOTHING, NOTHING), 1) == (True, False)


def test_a_step_that_leaves_out_the_other_branch_is_the_prompts_own() -> None:
    branches = GuidanceBranches(
        [seen(NOTHING), seen(text(1), in_step=1)], [seen(NOTHING), seen(text(2), in_step=1)]
    )
    assert branches.of(seen(NOTHING, NOTHING), 2) == (False,)
    assert branches.of(seen(text(3), text(4), in_step=1), 2) == (True,)
    assert branches.of(seen(text(3), text(4)), 2) == (True,)


def test_a_pipeline_that_hides_its_prompts_is_refused() -> None:
    with pytest.raises(UserError, match="follows the prompt"):
        GuidanceBranches([seen(NOTHING)], [seen(NOTHING)])
    with pytest.raises(UserError, match="not the same for every prompt"):
        GuidanceBranches([seen(NOTHING)], [seen(NOTHING, NOTHING)])


NOISY: list[tuple[type[Any], dict[str, Any]]] = [
    (FlowMatchLCMScheduler, {}),
    (FlowMatchEulerDiscreteScheduler, {"stochastic_sampling": True}),
]
"""Schedulers that draw noise at each step; these pipelines give their `step` no generator."""


@pytest.mark.parametrize(("kind", "config"), NOISY, ids=["lcm", "stochastic"])
@pytest.mark.parametrize("build", [case[0] for case in CASES], ids=lambda build: build.__name__)
def test_noise_at_each_step_is_decided_by_the_prompts_seeds(
    build: Callable[[], DiffusionPipeline], kind: type[Any], config: dict[str, Any]
) -> None:
    pipe = built(build)
    pipe.scheduler = kind.from_config(pipe.scheduler.config, **config)
    settings = Collection(steps=STEPS, tau=3, guidance=GUIDANCE, batch_size=2)
    one, other = (
        collect(OtherPipeline(pipe, resolution=RESOLUTION), PROMPTS, settings, site=f"re:{FFN}")
        for _ in range(2)
    )
    for name, layer in one.layers.items():
        assert np.array_equal(layer.sum_sq, other.layers[name].sum_sq)
    model = OtherPipeline(pipe, resolution=RESOLUTION)
    together, again = (model.generate(PROMPTS, steps=STEPS, guidance=GUIDANCE) for _ in "01")
    assert torch.equal(together, again)
    alone = model.generate(PROMPTS[1:], steps=STEPS, guidance=GUIDANCE)
    assert (together[1].int() - alone[0].int()).abs().max() <= 2
    reseeded = [PROMPTS[0], Prompt(text=PROMPTS[1].text, seed=5)]
    changed = model.generate(reseeded, steps=STEPS, guidance=GUIDANCE)
    assert not torch.equal(changed[1], together[1])
    assert "step" not in vars(pipe.scheduler)
