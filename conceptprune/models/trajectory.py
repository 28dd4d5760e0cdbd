"""A batch of denoising trajectories that can stop after any call and continue elsewhere."""

import functools
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from conceptprune.digest import canonical_json
from conceptprune.errors import UserError
from conceptprune.strict_reading import plain_json

NOT_STATE = ("_internal_dict", "noise_sampler")
"""What of a scheduler is no state: its config, and the Brownian trees of SDE solvers, which it
makes again from the seeds that it was given."""
BROKEN = (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What reading bytes raises that are no state."""


class Scheduler(Protocol):
    """The part of a diffusers scheduler that a trajectory uses."""

    timesteps: Tensor

    def set_timesteps(self, num_inference_steps: int, **kwargs: Any) -> None: ...  # noqa: D102
    def step(self, *args: Any, **kwargs: Any) -> Any: ...  # noqa: D102


@dataclass(frozen=True, slots=True, kw_only=True)
class TrajectoryState:
    """What a batch needs to continue from call `call`: latents, scheduler and generator state."""

    call: int
    tensors: dict[str, Tensor]
    scalars: dict[str, Any]
    unit: str = ""
    """Key of the unit that left it; empty if none is known."""

    def to_bytes(self) -> bytes:
        """As safetensors: tensors by name, scalars as JSON in the metadata."""
        said = {"call": self.call, "scalars": self.scalars}
        metadata = {
            "conceptprune": canonical_json({**said, "unit": self.unit} if self.unit else said)
        }
        # Cloned: a scheduler may keep the latents themselves, and safetensors forbids sharing.
        tensors = {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, tensor in self.tensors.items()
        }
        return safetensors.torch.save(tensors, metadata)

    @classmethod
    def from_bytes(cls, data: bytes) -> "TrajectoryState":
        """The inverse of `to_bytes`.

        Raises:
            UserError: the bytes are not those of a state.
        """
        try:
            tensors = safetensors.torch.load(data)
            header = plain_json(data[8 : 8 + int.from_bytes(data[:8], "little")])
            content = plain_json(header["__metadata__"]["conceptprune"])
            call, scalars, unit = content["call"], content["scalars"], content.get("unit", "")
            whole = (
                isinstance(call, int)
                and isinstance(unit, str)
                and "latents" in tensors
                and all(
                    isinstance(value, dict)
                    and len(value) == 1
                    and value.keys() <= {"list", "value"}
                    for value in scalars.values()
                )
            )
        except BROKEN as error:
            raise UserError(f"a trajectory's state cannot be read ({error!r:.200})") from error
        if not whole:
            raise UserError("a trajectory's state has no latents, or scalars of another form")
        return cls(call=call, tensors=tensors, scalars=scalars, unit=unit)


def seed_hidden_noise(scheduler: Any, generators: Sequence[torch.Generator]) -> None:
    """Seed the noise of a scheduler whose `step` takes no generator; each sample has its own seed.

    If the scheduler's config has a seed, that one is used for every sample.
    """
    if not hasattr(scheduler, "noise_sampler_seed"):
        return
    configured = scheduler.config.get("noise_sampler_seed")
    scheduler.noise_sampler_seed = [
        generator.initial_seed() if configured is None else configured for generator in generators
    ]
    # Made at the first step, from the seeds.
    scheduler.noise_sampler = None


@contextmanager
def seeded_steps(scheduler: Any, generators: Sequence[torch.Generator]) -> Iterator[None]:
    """Inside the context, the noise of a pipeline's own loop is the samples' own.

    Pipelines of flow models call `step` without a generator, and it would draw noise without one.
    """
    seed_hidden_noise(scheduler, generators)
    step, replaced = scheduler.step, vars(scheduler).get("step")
    signature = inspect.signature(step)
    if "generator" not in signature.parameters:
        yield
        return

    @functools.wraps(step)
    def seeded(*args: Any, **kwargs: Any) -> Any:
        if signature.bind_partial(*args, **kwargs).arguments.get("generator") is None:
            kwargs["generator"] = list(generators)
        return step(*args, **kwargs)

    scheduler.step = seeded
    try:
        yield
    finally:
        if replaced is None:
            del scheduler.step
        else:
            scheduler.step = replaced


class Trajectory:
    """The latents of B prompts during the first calls of a scheduler.

    Every random number comes from the prompt's own CPU generator, so a prompt's result does not
    depend on its batch, its shard or its worker.
    """

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        steps: int,
        latents: Tensor,
        generators: list[torch.Generator],
        schedule: Mapping[str, Any] | None = None,
    ) -> None:
        """`latents` are unit-variance noise [B, ...]; `scheduler` must be this trajectory's own.

        `schedule` holds arguments for the scheduler's `set_timesteps`, besides the number of steps.
        """
        scheduler.set_timesteps(steps, device=latents.device, **(schedule or {}))
        seed_hidden_noise(scheduler, generators)
        self.scheduler = scheduler
        self.steps = steps
        self.generators = generators
        # Flow-matching schedulers have no initial scale: they start from unit variance.
        self.latents = latents * getattr(scheduler, "init_noise_sigma", 1.0)
        self.call = 0
        self._fresh = dict(vars(scheduler))
        accepted = inspect.signature(scheduler.step).parameters
        # No additional noise (eta), which is the default of diffusers' pipelines but not of all
        # schedulers.
        told = {"generator": generators, "eta": 0.0}
        self._step_kwargs = {name: told[name] for name in told if name in accepted}

    @property
    def num_calls(self) -> int:
        """How many denoiser calls the whole trajectory has (PNDM: one more than its steps)."""
        return len(self.scheduler.timesteps)

    @property
    def timesteps(self) -> Tensor:
        """The scheduler's timestep of every call."""
        return self.scheduler.timesteps

    @property
    def timestep(self) -> Tensor:
        """The scheduler's timestep of the next call."""
        return self.scheduler.timesteps[self.call]

    def model_input(self) -> Tensor:
        """The scaled latents [B, ...] that the denoiser sees at the next call."""
        scale = getattr(self.scheduler, "scale_model_input", None)
        latents: Tensor = scale(self.latents, self.timestep) if scale else self.latents
        return latents

    def advance(self, prediction: Tensor) -> None:
        """Step with the (guided) prediction [B, ...] of this call."""
        self.latents = self.scheduler.step(
            prediction, self.timestep, self.latents, **self._step_kwargs, return_dict=False
        )[0]
        self.call += 1

    def state(self) -> TrajectoryState:
        """What has changed since the start, so that `restore` can continue from here.

        Raises:
            TypeError: the scheduler keeps state of a kind that cannot be stored.
        """
        tensors = {"latents": self.latents}
        for index, generator in enumerate(self.generators):
            tensors[f"generator.{index}"] = generator.get_state()
        scalars: dict[str, Any] = {}
        for name, value in vars(self.scheduler).items():
            # Lists are compared even if they are the same object: some schedulers change them in
            # place.
            if isinstance(value, list) and all(
                item is None or isinstance(item, Tensor) for item in value
            ):
                scalars[name] = {"list": len(value)}
                tensors |= {
                    f"scheduler.{name}.{i}": item
                    for i, item in enumerate(value)
                    if item is not None
                }
            elif name in NOT_STATE or value is self._fresh.get(name):
                continue
            elif isinstance(value, Tensor):
                tensors[f"scheduler.{name}"] = value
            elif value is None or isinstance(value, bool | int | float):
                scalars[name] = {"value": value}
            else:
                raise TypeError(
                    f"{type(self.scheduler).__name__}.{name} is a {type(value).__name__}: this "
                    "scheduler cannot be stopped between windows; set collection.window to null"
                )
        return TrajectoryState(call=self.call, tensors=tensors, scalars=scalars)

    def restore(self, state: TrajectoryState) -> None:
        """Continue from `state`, which came from a trajectory of the same prompts and settings."""
        device = self.latents.device
        self.call = state.call
        self.latents = state.tensors["latents"].to(device)
        for index, generator in enumerate(self.generators):
            generator.set_state(state.tensors[f"generator.{index}"])
        for name, content in state.scalars.items():
            if "list" in content:
                items = [state.tensors.get(f"scheduler.{name}.{i}") for i in range(content["list"])]
                value = [item if item is None else item.to(device) for item in items]
            else:
                value = content["value"]
            setattr(self.scheduler, name, value)
        prefix = "scheduler."
        for name, tensor in state.tensors.items():
            attribute = name.removeprefix(prefix)
            if name.startswith(prefix) and "." not in attribute:
                setattr(self.scheduler, attribute, tensor.to(device))
