"""A trajectory can be stopped after any call, written down, and go on elsewhere, bit for bit."""

import diffusers
import pytest
import safetensors.torch
import torch
from diffusers import StableDiffusionPipeline

from conceptprune.errors import UserError
from conceptprune.models.prompt import Prompt
from conceptprune.models.stable_diffusion import StableDiffusion
from conceptprune.models.trajectory import Trajectory, TrajectoryState

pytestmark = pytest.mark.slow

SCHEDULERS = (
    "DDIMScheduler",
    "DPMSolverMultistepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
)
CALLS = 7


def start(scheduler: str, seeds: tuple[int, ...] = (0, 1)) -> Trajectory:
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    noise = torch.cat([torch.randn(1, 4, 4, 4, generator=g) for g in generators])
    config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    return Trajectory(
        scheduler=getattr(diffusers, scheduler)(**config),
        steps=10,
        latents=noise,
        generators=generators,
    )


def run(trajectory: Trajectory, calls: int) -> None:
    for _ in range(calls):
        sample = trajectory.model_input()
        trajectory.advance(torch.tanh(sample + 0.01 * trajectory.timestep.float()))


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_stopping_and_going_on_changes_no_bit(scheduler: str) -> None:
    whole = start(scheduler)
    run(whole, CALLS)
    for stop in range(CALLS + 1):
        first = start(scheduler)
        run(first, stop)
        state = TrajectoryState.from_bytes(first.state().to_bytes())
        second = start(scheduler)
        second.restore(state)
        run(second, CALLS - stop)
        assert torch.equal(second.latents, whole.latents)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_prompt_sees_the_same_noise_whatever_its_batch(scheduler: str) -> None:
    together, alone = start(scheduler, (5, 6, 7)), start(scheduler, (7,))
    run(together, CALLS)
    run(alone, CALLS)
    assert torch.equal(together.latents[2:], alone.latents)


def test_a_scheduler_whose_state_cannot_be_written_is_refused() -> None:
    trajectory = start("DDIMScheduler")
    trajectory.scheduler.secret = {"not": "storable"}
    with pytest.raises(TypeError, match=r"DDIMScheduler\.secret"):
        trajectory.state()


@pytest.mark.parametrize("guidance", [7.5, 1.0])
def test_the_denoising_loop_is_that_of_diffusers(
    tiny_pipe: StableDiffusionPipeline, guidance: float
) -> None:
    prompts = [Prompt(text="a photo of a cat", seed=3), Prompt(text="a house", seed=4)]
    model = StableDiffusion.from_pipeline(tiny_pipe)
    batch = model.begin(prompts, steps=5, guidance=guidance)
    for _ in range(batch.trajectory.num_calls):
        model.advance(batch)
    theirs = tiny_pipe(
        [prompt.text for prompt in prompts],
        num_inference_steps=5,
        guidance_scale=guidance,
        generator=[torch.Generator().manual_seed(prompt.seed) for prompt in prompts],
        output_type="latent",
    ).images
    assert batch.trajectory.num_calls == 6
    # Not bit for bit: they encode the prompts of a batch together, we one by one.
    torch.testing.assert_close(batch.trajectory.latents, theirs, rtol=1e-4, atol=1e-5)


def test_bytes_that_are_no_state_are_one_error() -> None:
    data = start("DDIMScheduler").state().to_bytes()
    latents = {"latents": torch.zeros(1)}
    crafted = [
        b"",
        data[:7],
        data[:200],
        data[:-1],
        data + b"x",
        (2**63).to_bytes(8, "little") + data[8:],
        (7).to_bytes(8, "little") + b"[[[[[[[",
        data.replace(b"latents", b"latentz"),
        *(
            safetensors.torch.save(latents, {"conceptprune": said})
            for said in (
                "{",
                "[]",
                "[" * 100_000,
                '{"call": "1", "scalars": {}}',
                '{"call": 1, "scalars": []}',
                '{"call": 1, "scalars": {"a": 1}}',
                '{"call": 1, "scalars": {"a": {"list": 1, "value": 2}}}',
            )
        ),
        safetensors.torch.save(latents),
    ]
    for each in crafted:
        with pytest.raises(UserError, match="a trajectory's state"):
            TrajectoryState.from_bytes(each)
    # Any byte that is changed leaves a state, or is one error.
    for place in range(0, len(data), 17):
        changed = bytearray(data)
        changed[place] ^= 0x55
        try:
            TrajectoryState.from_bytes(bytes(changed))
        except UserError:
            continue
