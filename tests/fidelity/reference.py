"""The method once more, as plainly as possible, for tests to compare the library with.

Nothing here is shared with `conceptprune`: one prompt at a time goes through the pipeline's own
`__call__`, statistics are float64, and every rule is a line of its own. Speed does not matter.

Shapes: N token rows (both guidance branches, all positions), T denoiser calls, R rows (outputs) and
C columns (inputs, the neurons) of a weight.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor, nn

RowNorms = dict[str, Tensor]
"""Layer name -> A, float64 [T, C]: each neuron's norm at each denoiser call."""

Activations = dict[str, list[Tensor]]
"""Layer name -> its inputs [2, tokens, C] at each denoiser call, for one prompt."""


def layers(pipe: StableDiffusionPipeline) -> dict[str, nn.Linear]:
    """The prunable linears: the second one of every feed-forward in the U-Net."""
    return {
        name: module for name, module in pipe.unet.named_modules() if name.endswith(".ff.net.2")
    }


def weights(pipe: StableDiffusionPipeline) -> dict[str, Tensor]:
    """The prunable weights [R, C]."""
    return {name: module.weight.detach() for name, module in layers(pipe).items()}


def observe(
    pipe: StableDiffusionPipeline,
    prompts: Iterable[tuple[str, int]],
    *,
    tau: int,
    steps: int = 50,
    guidance: float = 7.5,
) -> list[Activations]:
    """What each prunable linear was given for each (prompt, seed), at each call t < tau."""
    return [_observe(pipe, prompt, seed, tau, steps, guidance) for prompt, seed in prompts]


def neuron_norms(
    observed: Iterable[Activations], *, normalise_rows: bool = True, num_branches: int = 2
) -> RowNorms:
    """A[t, j] = sqrt(sum of a[token, j]^2 over the tokens of all observed prompts at call t).

    `normalise_rows=False` and `num_branches=1` (the conditional branch alone) leave out a part of
    the method on purpose: tests use them to show that the comparison would notice.
    """
    sums: dict[str, Tensor] = {}
    for prompt in observed:
        for name, activations in prompt.items():
            if name not in sums:
                columns = activations[0].shape[-1]
                sums[name] = torch.zeros(len(activations), columns, dtype=torch.float64)
            for call, activation in enumerate(activations):
                # Guidance stacks [unconditional, conditional] along the batch.
                rows = activation[-num_branches:].flatten(0, -2).double()  # [N, C]
                if normalise_rows:
                    lengths = rows.square().sum(dim=1, keepdim=True).sqrt()
                    rows = rows / lengths.clamp(min=1e-12)
                sums[name][call] += rows.square().sum(dim=0)
    return {name: total.sqrt() for name, total in sums.items()}


def _observe(
    pipe: StableDiffusionPipeline, prompt: str, seed: int, tau: int, steps: int, guidance: float
) -> Activations:
    """Denoise one prompt; returns what each prunable linear was given at each call before tau."""
    seen: Activations = {name: [] for name in layers(pipe)}

    def keep(name: str, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen[name].append(args[0].detach().clone())

    def stop_at_tau(pipe: Any, step: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        pipe._interrupt = step + 1 >= tau
        return kwargs

    handles = [
        module.register_forward_pre_hook(functools.partial(keep, name))
        for name, module in layers(pipe).items()
    ]
    try:
        pipe(
            prompt,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=torch.Generator("cpu").manual_seed(seed),
            output_type="latent",
            callback_on_step_end=stop_at_tau,
        )
    finally:
        for handle in handles:
            handle.remove()
    return seen


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferenceMask:
    """The pruned entries of one weight [R, C], and how sure float32 arithmetic can be of them."""

    selected: Tensor
    """The mask by the exact float64 scores."""
    certain: Tensor
    """Selected whatever the rounding: any correct mask has these entries."""
    possible: Tensor
    """Selected under some rounding: a correct mask has no other entries."""
    scores: Tensor
    """S_target, float64 [T, R, C]."""


def masks_from_norms(
    weights: Mapping[str, Tensor],
    *,
    base: Mapping[str, Tensor],
    target: Mapping[str, Tensor],
    sparsity: float,
    threshold: float = 0.0,
    rounding: float = 1e-4,
) -> dict[str, ReferenceMask]:
    """Select each layer's entries from its norms [T, C]; `rounding` is what counts as a tie."""
    return {
        name: _layer_mask(weight, base[name], target[name], sparsity, threshold, rounding)
        for name, weight in weights.items()
    }


def _layer_mask(
    weight: Tensor,
    base: Tensor,
    target: Tensor,
    sparsity: float,
    threshold: float,
    rounding: float,
) -> ReferenceMask:
    num_calls, num_columns = target.shape
    keep = math.floor(sparsity * num_columns)
    scores = torch.stack([weight.double().abs() * norms for norms in target])
    base_scores = torch.stack([weight.double().abs() * norms for norms in base])

    def over_time(select: Callable[[int], Tensor]) -> Tensor:
        votes = torch.stack([select(call) for call in range(num_calls)]).sum(dim=0)
        return votes > threshold * num_calls

    def selected(call: int) -> Tensor:
        return _largest(scores[call], keep) & (scores[call] > base_scores[call])

    def certain(call: int) -> Tensor:
        runner_up = _nth_largest(scores[call], keep + 1)
        above_cut = scores[call] > runner_up * (1 + rounding)
        return above_cut & (scores[call] > base_scores[call] * (1 + rounding))

    def possible(call: int) -> Tensor:
        last_in = _nth_largest(scores[call], keep)
        near_cut = scores[call] * (1 + rounding) >= last_in
        return near_cut & (scores[call] * (1 + rounding) > base_scores[call])

    return ReferenceMask(
        selected=over_time(selected),
        certain=over_time(certain),
        possible=over_time(possible),
        scores=scores,
    )


def _largest(scores: Tensor, count: int) -> Tensor:
    """Mark the `count` largest of each row; among equals, the lower column wins."""
    ranked = scores.sort(dim=1, descending=True, stable=True).indices
    mask = torch.zeros_like(scores, dtype=torch.bool)
    return mask.scatter(1, ranked[:, :count], True)


def _nth_largest(scores: Tensor, n: int) -> Tensor:
    """The n-th largest (from 1) value of each row, as a column [R, 1]."""
    return scores.sort(dim=1, descending=True).values[:, n - 1 : n]
