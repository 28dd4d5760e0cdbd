"""Watch a pipeline's loop from the outside: its steps, and what each denoiser call is for.

A step is one call of the scheduler's `step`. With guidance, some pipelines send both branches
through the denoiser together, in either order; others run one after the other. The denoiser's
inputs show which branch is the conditional one: they change with the prompt, and those of the
unconditional branch do not. So the pipeline runs two prompts for one step each, and the branch that
stays the same is the unconditional one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from conceptprune.errors import UserError

SAMPLE_NAMES = ("hidden_states", "sample", "x")
TIME_NAMES = ("timestep", "t")
NOT_CONDITIONS = {*SAMPLE_NAMES, *TIME_NAMES, "guidance", "return_dict"}
"""Denoiser arguments that do not depend on the prompt."""
TOLERANCE = 5e-3
"""Equal conditions may differ by this fraction of the largest value: batching changes last bits."""

Conditions = Mapping[str, Tensor]
"""The denoiser's inputs for one sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenCall:
    """A denoiser call that is about to be made."""

    step: int
    in_step: int
    """Index of the call within its step, from 0."""
    timestep: float
    samples: tuple[Conditions, ...]
    together: bool
    """True if the samples' conditions are in one tensor, padded to the longest."""


class Enough(Exception):  # noqa: N818 - not an error: it leaves the loop of a pipeline
    """Raised to leave a pipeline's loop after enough steps, or a denoiser's last call."""


@contextmanager
def watched(
    denoiser: nn.Module, scheduler: Any, stop: int, on_call: Callable[[SeenCall], None]
) -> Iterator["Steps"]:
    """Inside the context, `on_call` is called before each denoiser call, and `Enough` ends step
    `stop`."""
    steps = Steps(stop)
    step = scheduler.step

    @wraps(step)
    def counted(*args: Any, **kwargs: Any) -> Any:
        steps.end()
        return step(*args, **kwargs)

    def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        named = dict(enumerate(args)) | kwargs
        sample = next(named[name] for name in (0, *SAMPLE_NAMES) if name in named)
        time = next(named[name] for name in (1, *TIME_NAMES) if name in named)
        timestep = float(torch.as_tensor(time).flatten()[0])
        in_step = steps.call(timestep)
        samples, together = _conditions(named, len(sample))
        on_call(
            SeenCall(
                step=steps.done,
                in_step=in_step,
                timestep=timestep,
                samples=samples,
                together=together,
            )
        )

    handle = denoiser.register_forward_pre_hook(before, with_kwargs=True)
    scheduler.step = counted
    try:
        yield steps
    finally:
        handle.remove()
        del scheduler.step


class Steps:
    """Counts a loop's steps by scheduler calls, or by timesteps if it makes none."""

    def __init__(self, stop: int) -> None:
        self.stop = stop
        self.done = 0
        self._calls = 0
        self._timestep = 0.0

    @property
    def seen(self) -> int:
        """Steps so far, including one that has begun."""
        return self.done + (self._calls > 0)

    def call(self, timestep: float) -> int:
        """Record a denoiser call; returns its index within the step."""
        if self._calls and timestep != self._timestep:
            self.end()
        self._timestep = timestep
        self._calls += 1
        return self._calls - 1

    def end(self) -> None:
        """Record the end of a step; raise `Enough` after the last one asked for."""
        self.done += 1
        self._calls = 0
        if self.done == self.stop:
            raise Enough


def _conditions(named: Mapping[int | str, Any], count: int) -> tuple[tuple[Conditions, ...], bool]:
    """Conditions of each of `count` samples, and whether they are rows of the same tensors."""
    samples: list[dict[str, Tensor]] = [{} for _ in range(count)]
    together = True
    for name, value in _flat(named):
        if isinstance(value, list | tuple) and len(value) == count:
            if all(isinstance(item, Tensor) for item in value):
                together = together and count == 1
                for sample, item in zip(samples, value, strict=True):
                    sample[name] = item
        elif isinstance(value, Tensor) and value.dim() > 0 and len(value) == count:
            for sample, item in zip(samples, value, strict=True):
                sample[name] = item
    return tuple(samples), together


def _flat(named: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Arguments by name or position; dictionaries among them are flattened."""
    for name, value in named.items():
        if name in NOT_CONDITIONS or (not prefix and name in (0, 1)):
            continue
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


class GuidanceBranches:
    """Tells the conditional branch of a denoiser call from the unconditional one."""

    def __init__(self, one: Sequence[SeenCall], other: Sequence[SeenCall]) -> None:
        """Learn from one step with one prompt, and one step with another.

        Raises:
            UserError: no input of the denoiser depends on the prompt, or the two steps made
            different calls.
        """
        if [len(call.samples) for call in one] != [len(call.samples) for call in other]:
            raise UserError(f"{CANNOT_TELL}: its calls are not the same for every prompt")
        differing = [
            [_differing(*samples) for samples in zip(a.samples, b.samples, strict=True)]
            for a, b in zip(one, other, strict=True)
        ]
        self._learnt = [tuple(map(bool, names)) for names in differing]
        self._telling = {name for call in differing for names in call for name in names}
        if not self._telling:
            raise UserError(f"{CANNOT_TELL}: nothing that its denoiser is told follows the prompt")
        self._others = [
            self._told(sample)
            for call, own in zip(one, self._learnt, strict=True)
            for sample, conditional in zip(call.samples, own, strict=True)
            if not conditional
        ]

    def of(self, call: SeenCall, num_prompts: int) -> tuple[bool, ...]:
        """For each branch in a call for `num_prompts` prompts: is it the conditional one?"""
        count = len(call.samples) // num_prompts
        learnt = self._learnt[call.in_step] if call.in_step < len(self._learnt) else ()
        known = learnt if len(learnt) == count else (False,) * count
        branches = [
            [self._told(sample) for sample in call.samples[first : first + num_prompts]]
            for first in range(0, count * num_prompts, num_prompts)
        ]
        # A prompt may look like the unconditional branch (an empty one): then its position decides.
        return tuple(
            place or self._is_own(branch, padded=count > 1 and call.together)
            for place, branch in zip(known, branches, strict=True)
        )

    def _told(self, sample: Conditions) -> Conditions:
        """The conditions of a sample that depend on its prompt."""
        return {name: sample[name] for name in sorted(self._telling & sample.keys())}

    def _is_own(self, branch: Sequence[Conditions], *, padded: bool) -> bool:
        if padded and not any(
            _shapes(sample) == _shapes(o) for sample in branch for o in self._others
        ):
            # Padded to its neighbours' length, it cannot be compared with what it was alone.
            return False
        return not all(
            any(not _differing(sample, other) for other in self._others) for sample in branch
        )


CANNOT_TELL = (
    "collection.guidance_branches: it cannot be told which branch is the prompts' own in this "
    "pipeline"
)


def _shapes(sample: Conditions) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in sample.items()}


def _differing(one: Conditions, other: Conditions) -> set[str]:
    """Names of the conditions that differ."""
    names = set(one.keys() ^ other.keys())
    for name in one.keys() & other.keys():
        if one[name].shape != other[name].shape:
            names.add(name)
            continue
        a, b = one[name].float(), other[name].float()
        if a.numel() and (a - b).abs().max() > TOLERANCE * b.abs().max():
            names.add(name)
    return names
