"""Collection: run prompts through the first denoiser calls and sum the inputs of the site's
linears.

Shapes: B prompts per batch, H guidance branches, T tokens, W neurons (columns) of a linear.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from conceptprune.collection.statistics import LayerStatistics, Statistics
from conceptprune.collection.window import Window as Window
from conceptprune.errors import NumericalError, UserError
from conceptprune.manifest import Collection
from conceptprune.models.base import Batch, DenoiserCall, DiffusionModel
from conceptprune.models.borrowed import borrowed
from conceptprune.models.pipeline_modules import SiteLinear
from conceptprune.models.prompt import Prompt
from conceptprune.models.trajectory import TrajectoryState
from conceptprune.models.watching import Enough

EPSILON = 1e-12
"""Lower bound for a token row's L2 norm (as in torch's `normalize`)."""

CHUNK_ELEMENTS = 1 << 20
"""Squared activations are computed for this many elements at a time on a CPU, so that they fit its
cache and take little memory on top of the batch's activations."""

DEVICE_CHUNK_ELEMENTS = 1 << 26
"""The same on any other device, where each kernel has a launch cost: 256 MiB in float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowResult:
    """The result of one window of calls for one set of prompts."""

    statistics: Statistics
    states: tuple[TrajectoryState, ...]
    """One per batch: where the next window continues; empty if none follows."""


def collect(
    pipe: Any,
    prompts: Sequence[Prompt],
    collection: Collection,
    *,
    site: str | Sequence[str] = "ffn_out",
) -> Statistics:
    """Statistics of `prompts` over the first `collection.tau` denoiser calls, at one or more sites.

    `pipe` is a diffusers pipeline, which is left unchanged, or a `DiffusionModel`. Its scheduler,
    dtype and device are used, and the seeds of the prompts: the settings of `collection` for these
    only apply when a job loads the model.

    Raises:
        UserError: there are no prompts, the scheduler makes fewer than tau calls, or the pipeline
        lacks a site. NumericalError: an activation overflowed or is not a number.
    """
    if not prompts:
        raise UserError("collect: no prompts are given; statistics need at least one")
    window = Window(0, collection.tau)
    with borrowed(pipe, resolution=collection.resolution) as model:
        return collect_window(
            model, prompts, collection, window, site=site, keep_states=False
        ).statistics


def collect_window(
    model: DiffusionModel,
    prompts: Sequence[Prompt],
    collection: Collection,
    window: Window,
    states: Sequence[TrajectoryState] | None = None,
    *,
    site: str | Sequence[str] = "ffn_out",
    keep_states: bool = True,
    at_once: int | None = None,
) -> WindowResult:
    """Statistics of one window of calls, continuing from the previous window's `states`.

    Without `keep_states`, no window can follow and memory does not grow with the prompts.
    `at_once` prompts of a batch go through the denoiser together; by default, all of them.

    Raises:
        UserError: the scheduler makes fewer calls than the window's end.
        NumericalError: an activation overflowed or is not a number; names layer and call.
    """
    # First of all, because text encoders may be freed when denoising starts.
    sites = (site,) if isinstance(site, str) else tuple(site)
    text_layers = _text_layers(model, prompts, collection, sites, window)
    linears = model.site_linears(sites, ("latents", "prompt"))
    total: Statistics | None = None
    ends: list[TrajectoryState] = []
    batches = model.batches(prompts, collection.batch_size, collection.guidance)
    for index, batch_prompts in enumerate(batches):
        batch = model.begin(batch_prompts, steps=collection.steps, guidance=collection.guidance)
        model.check_calls(batch, window.stop)
        if states is not None:
            batch.trajectory.restore(states[index])
        part = _collect_batch(
            model, batch, linears, collection, window, at_once, continues=keep_states
        )
        part = replace(
            part, num_prompts=len(batch_prompts), layers={**part.layers, **text_layers[index]}
        )
        # Added up batch by batch: keeping all of them would make memory grow with the prompts.
        total = part if total is None else total.merge(part)
        if keep_states:
            ends.append(batch.trajectory.state())
    if total is None:
        raise ValueError("no prompts to collect")
    return WindowResult(statistics=total, states=tuple(ends))


def _collect_batch(
    model: DiffusionModel,
    batch: Batch,
    linears: Mapping[str, SiteLinear],
    collection: Collection,
    window: Window,
    at_once: int | None,
    *,
    continues: bool,
) -> Statistics:
    """Collect a batch at the denoiser's linears."""
    calls = range(window.start, window.stop)
    layers: dict[str, LayerStatistics] = {}

    def counted(conditional: tuple[bool, ...]) -> tuple[bool, ...]:
        """For each branch, whether it is summed."""
        return tuple(own or collection.guidance_branches == "both" for own in conditional)

    if any(site_linear.sees == "latents" for site_linear in linears.values()):
        meter = _Meter(linears, model.device, num_calls=len(calls))
        timestep_of: dict[int, float] = {}

        def on_call(call: DenoiserCall) -> None:
            if not call.continues:
                meter.begin(call.number - window.start, in_parts=call.in_parts, unused=call.unused)
            meter.counted = counted(call.conditional)
            meter.shared = call.shared
            timestep_of[call.number] = call.timestep

        with meter.attached():
            model.run(
                batch,
                window.stop,
                on_call,
                at_once=at_once,
                tell_branches=collection.guidance_branches == "conditional",
                continues=continues,
            )
        timesteps = [timestep_of[call] for call in calls]
        layers = meter.layers(window.start)
    else:
        timesteps = batch.trajectory.timesteps[window.start : window.stop].double().tolist()
        if linears:
            meter = _Meter(linears, model.device, num_calls=1)
            meter.counted = counted((False, True)[-batch.num_branches :])
            with torch.no_grad():
                flat = {name: tensor.flatten(0, 1) for name, tensor in batch.conditions.items()}
                meter.add(list(linears), model.prompt_states(flat))
            layers = _at_every_call(meter.layers(window.start), len(calls))
    return Statistics(
        first_call=window.start, timesteps=tuple(timesteps), num_prompts=0, layers=layers
    )


def _text_layers(
    model: DiffusionModel,
    prompts: Sequence[Prompt],
    collection: Collection,
    sites: tuple[str, ...],
    window: Window,
) -> list[dict[str, LayerStatistics]]:
    """Collect at the text encoders' linears, batch by batch; empty if no site is in them."""
    starts = range(0, len(prompts), collection.batch_size)
    linears = model.site_linears(sites, ("text",))
    if not linears:
        return [{} for _ in starts]
    layers = []
    for start in starts:
        # Only the prompts: the unconditional branch's empty text says nothing about a concept.
        meter = _Meter(linears, model.device, num_calls=1)
        meter.counted = (True,)
        with meter.attached(), torch.no_grad():
            for prompt in prompts[start : start + collection.batch_size]:
                meter.begin(0, in_parts=False)
                model.encode_prompt(prompt.text)
        seen = meter.layers(window.start)
        layers.append(_at_every_call(seen, window.stop - window.start))
    return layers


def _at_every_call(
    layers: Mapping[str, LayerStatistics], num_calls: int
) -> dict[str, LayerStatistics]:
    """Repeat sums measured once [1, W] for each call [C, W], as they are equal at all."""
    return {
        name: LayerStatistics(
            sum_sq=layer.sum_sq.repeat(num_calls, axis=0),
            sum_norm=layer.sum_norm.repeat(num_calls, axis=0),
            num_rows=layer.num_rows,
        )
        for name, layer in layers.items()
    }


class _Meter:
    """Sums of squared, row-normalised inputs of linears, kept on the device until asked for."""

    def __init__(
        self, linears: Mapping[str, SiteLinear], device: torch.device, *, num_calls: int
    ) -> None:
        self.linears = linears
        self.call = 0
        self.counted: tuple[bool, ...] = ()
        """For each guidance branch of the current call, whether it is summed. Empty before the
        first announced call, because a pipeline may run some steps as a trial."""
        self.shared = False
        """Whether the first branch has one sample for all prompts."""
        self._in_parts = False
        self._unused = False
        self._num_seen = 0
        """How many inputs of linears this call has shown so far."""
        self._num_a_call = 0
        """How many a call shows, as the first one did."""
        self._pending: dict[str, Tensor] = {}
        """Sums of this step's prompts so far, by layer: [B, W] float64."""
        self.num_rows: dict[str, int] = {}  # Filled by the first call, in forward order.
        self._shapes = {
            name: (2, num_calls, site_linear.linear.in_features - site_linear.first_column)
            for name, site_linear in linears.items()
        }
        # In one piece, to wait for the device once instead of once per layer.
        total = sum(map(prod, self._shapes.values()))
        self._flat = torch.zeros(total, dtype=torch.float64, device=device)
        self.sums = self._by_layer(self._flat)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Hook the linears inside the context."""
        handles = [
            site_linear.linear.register_forward_pre_hook(self._hook(name, site_linear.first_column))
            for name, site_linear in self.linears.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, name: str, first_column: int) -> Any:
        def add(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self.add([name], inputs[0][..., first_column:])
            self._num_seen += 1
            if self.call == 0:
                self._num_a_call = self._num_seen
            elif self._unused and self._num_seen == self._num_a_call:
                raise Enough

        return add

    def _by_layer(self, flat: Tensor) -> dict[str, Tensor]:
        """Views of what is in one piece: each [2, C, W], the sums of squares and of norms."""
        pieces = flat.split([prod(shape) for shape in self._shapes.values()])
        return {
            name: piece.view(shape)
            for (name, shape), piece in zip(self._shapes.items(), pieces, strict=True)
        }

    def add(self, names: Sequence[str], inputs: Tensor) -> None:
        """Add `inputs` [N, T, W], shared by all linears in `names`."""
        counted = [branch for branch, summed in enumerate(self.counted) if summed]
        if not counted:
            return
        num_branches = len(counted)
        if self.shared:
            # The one sample of the first branch, then those of the second.
            rows = inputs[counted[0] :]
            num_prompts = len(inputs) - 1
            energy = neuron_energy(rows.flatten(1, -2))
            if num_branches == 2:
                energy = torch.cat([energy[:1].expand(num_prompts, -1), energy[1:]])
        else:
            # Branches are consecutive along the batch, and those that are summed are adjacent.
            every = inputs.unflatten(0, (len(self.counted), -1))
            rows = every[counted[0] : counted[-1] + 1].flatten(0, 1)
            num_prompts = every.shape[1]
            energy = neuron_energy(rows.flatten(1, -2))
        per_prompt = energy.unflatten(0, (num_branches, num_prompts)).sum(0, dtype=torch.float64)
        for name in names:
            if self._in_parts:
                # Prompts of another part of the batch.
                self._add_pending(name)
            seen = self._pending.get(name)
            self._pending[name] = per_prompt if seen is None else seen + per_prompt
            if self.call == 0:
                num_rows = num_branches * num_prompts * rows.shape[1:-1].numel()
                self.num_rows[name] = self.num_rows.get(name, 0) + num_rows

    def begin(self, call: int, *, in_parts: bool, unused: bool = False) -> None:
        """Begin a step of a batch, whose prompts may go through the denoiser in parts.

        If it is `unused`, the denoiser is left once all inputs have been seen.
        """
        for name in list(self._pending):
            self._add_pending(name)
        self.call = call
        self._in_parts = in_parts
        self._unused = unused
        self._num_seen = 0

    def _add_pending(self, name: str) -> None:
        """Add a layer's sums for prompts whose branches are all complete."""
        per_prompt = self._pending.pop(name, None)
        if per_prompt is not None:
            squares, norms = self.sums[name][:, self.call]
            squares.add_(per_prompt.sum(0))
            norms.add_(per_prompt.sqrt().sum(0))

    def layers(self, first_call: int) -> dict[str, LayerStatistics]:
        """The sums, moved to the host once.

        Raises:
            NumericalError: a sum is infinite or not a number.
        """
        for name in self.num_rows:
            self._add_pending(name)
        on_host = self._by_layer(self._flat.cpu())
        host = {name: on_host[name] for name in self.num_rows}
        bad = [
            (int(call), order, name)
            for order, (name, sums) in enumerate(host.items())
            for call in (~sums.isfinite().all(dim=2).all(dim=0)).nonzero()
        ]
        if bad:
            call, _, name = min(bad)  # Everything after the first one follows from it.
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

    Each token row is divided by max(its L2 norm, 1e-12). Computed as the product of reciprocal row
    sums and squares, which reads each activation once and makes no normalised copy.
    """
    _, tokens, width = activations.shape
    elements = CHUNK_ELEMENTS if activations.device.type == "cpu" else DEVICE_CHUNK_ELEMENTS
    chunk = max(1, elements // (tokens * width))
    parts = []
    for part in activations.split(chunk):
        squares = part.float().square()
        weights = squares.sum(-1).clamp_min_(EPSILON**2).reciprocal_()
        parts.append(torch.bmm(weights.unsqueeze(1), squares).squeeze(1))
    return torch.cat(parts)
