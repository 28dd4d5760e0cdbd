"""Collection: run prompts through the first denoiser calls and sum what the site's linears see.

Shapes: B prompts a batch, H guidance halves, T tokens, W neurons (columns) of a linear.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from conceptprune.errors import NumericalError, UserError
from conceptprune.families.stable_diffusion import Guided, StableDiffusion
from conceptprune.prompts import Prompt
from conceptprune.settings import CollectionSettings as CollectionSettings
from conceptprune.settings import Window as Window
from conceptprune.sites import SITES, site_linears
from conceptprune.statistics import LayerStatistics, Statistics
from conceptprune.trajectory import TrajectoryState

EPSILON = 1e-12
"""A token row's L2 norm is never taken smaller than this (as torch's `normalize`)."""

CHUNK_ELEMENTS = 1 << 20
"""Squared activations are formed for so many elements at a time: they stay in a CPU's cache and
memory above the batch's own activations stays flat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowResult:
    """What one window of one set of prompts gave."""

    statistics: Statistics
    states: tuple[TrajectoryState, ...]
    """One per batch: where the next window goes on; none where none follows."""


def collect(
    model: StableDiffusion, prompts: Sequence[Prompt], settings: CollectionSettings
) -> Statistics:
    """Statistics of `prompts` over the first `settings.tau` denoiser calls.

    Raises:
        UserError: the scheduler makes fewer than tau calls.
        NumericalError: an activation overflowed or is not a number.
    """
    window = Window(0, settings.tau)
    return collect_window(model, prompts, settings, window, keep_states=False).statistics


def collect_window(
    model: StableDiffusion,
    prompts: Sequence[Prompt],
    settings: CollectionSettings,
    window: Window,
    states: Sequence[TrajectoryState] | None = None,
    *,
    keep_states: bool = True,
    at_once: int | None = None,
) -> WindowResult:
    """Statistics of one window of calls, going on from the previous window's `states`.

    Without `keep_states` no window can follow, and memory does not grow with the prompts.
    `at_once` prompts of a batch go through the denoiser together, all of them by default.

    Raises:
        UserError: the scheduler makes fewer calls than the window ends at.
        NumericalError: an activation overflowed or is not a number; names layer and call.
    """
    linears = site_linears(model.denoiser, SITES[settings.site])
    total: Statistics | None = None
    ends: list[TrajectoryState] = []
    for index, start in enumerate(range(0, len(prompts), settings.batch_size)):
        batch = model.begin(
            prompts[start : start + settings.batch_size],
            steps=settings.steps,
            guidance=settings.guidance,
        )
        if window.stop > batch.trajectory.num_calls:
            raise UserError(
                f"collection.tau: {window.stop} calls were asked for, but the scheduler makes only "
                f"{batch.trajectory.num_calls} with steps: {settings.steps}"
            )
        if states is not None:
            batch.trajectory.restore(states[index])
        part = _collect_batch(model, batch, linears, settings, window, at_once)
        # Added up batch by batch: holding all of them would make memory grow with the prompts.
        total = part if total is None else total.merge(part)
        if keep_states:
            ends.append(batch.trajectory.state())
    if total is None:
        raise ValueError("no prompt to collect")
    return WindowResult(statistics=total, states=tuple(ends))


def _collect_batch(
    model: StableDiffusion,
    batch: Guided,
    linears: Mapping[str, nn.Linear],
    settings: CollectionSettings,
    window: Window,
    at_once: int | None,
) -> Statistics:
    skip = batch.halves - 1 if settings.halves == "conditional" else 0
    meter = _Meter(linears, num_calls=window.stop - window.start, halves=batch.halves, skip=skip)
    timesteps = []
    with meter.attached():
        for call in range(window.start, window.stop):
            meter.call = call - window.start
            timesteps.append(float(batch.trajectory.timestep))
            model.advance(batch, at_once=at_once)
    return Statistics(
        first_call=window.start,
        timesteps=tuple(timesteps),
        num_prompts=len(batch.trajectory.generators),
        layers=meter.layers(window.start),
    )


class _Meter:
    """Sums of squared, row-normalised inputs of linears, kept on the device until asked for."""

    def __init__(
        self, linears: Mapping[str, nn.Linear], *, num_calls: int, halves: int, skip: int
    ) -> None:
        self.linears = linears
        self.halves = halves
        self.skip = skip
        self.call = 0
        self.num_rows: dict[str, int] = {}  # Filled by the first call, in the order of forward.
        self.sums = {
            name: torch.zeros(
                (2, num_calls, linear.in_features),
                dtype=torch.float64,
                device=linear.weight.device,
            )
            for name, linear in linears.items()
        }

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Hook the linears for the duration."""
        handles = [
            linear.register_forward_pre_hook(self._hook(name))
            for name, linear in self.linears.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, name: str) -> Any:
        def add(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            # Halves lie one after the other along the batch, the unconditional one first.
            rows = inputs[0].unflatten(0, (self.halves, -1))[self.skip :]
            num_halves, num_prompts = rows.shape[:2]
            energy = neuron_energy(rows.flatten(0, 1).flatten(1, -2))
            per_prompt = energy.unflatten(0, (num_halves, num_prompts)).sum(0, dtype=torch.float64)
            self.sums[name][0, self.call] += per_prompt.sum(0)
            self.sums[name][1, self.call] += per_prompt.sqrt().sum(0)
            if self.call == 0:
                self.num_rows[name] = self.num_rows.get(name, 0) + rows.shape[:-1].numel()

        return add

    def layers(self, first_call: int) -> dict[str, LayerStatistics]:
        """The sums, moved to the host once.

        Raises:
            NumericalError: a sum is infinite or not a number.
        """
        host = {name: self.sums[name].cpu() for name in self.num_rows}
        bad = [
            (int(call), order, name)
            for order, (name, sums) in enumerate(host.items())
            for call in (~sums.isfinite().all(dim=2).all(dim=0)).nonzero()
        ]
        if bad:
            call, _, name = min(bad)  # Everything after the first one is its consequence.
            raise NumericalError(
                f"layer {name}, denoiser call {first_call + call}: the activation overflowed or is "
                "not a number; try collection.dtype: bfloat16 or float32"
            )
        return {
            name: LayerStatistics(
                sum_sq=sums[0].numpy(), sum_norm=sums[1].numpy(), num_rows=self.num_rows[name]
            )
            for name, sums in host.items()
        }


def neuron_energy(activations: Tensor) -> Tensor:
    """Sum over tokens of squared, row-normalised activations: [n, T, W] -> [n, W] float32.

    Each token row is divided by max(its L2 norm, 1e-12). Written as a product of reciprocal row
    sums with squares, which reads each activation once and makes no normalised copy.
    """
    _, tokens, width = activations.shape
    chunk = max(1, CHUNK_ELEMENTS // (tokens * width))
    parts = []
    for part in activations.split(chunk):
        squares = part.float().square()
        weights = squares.sum(-1).clamp_min_(EPSILON**2).reciprocal_()
        parts.append(torch.bmm(weights.unsqueeze(1), squares).squeeze(1))
    return torch.cat(parts)
