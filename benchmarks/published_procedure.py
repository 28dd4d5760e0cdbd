"""The published procedure as it is run, unoptimised: what the library's speed is measured against.

One prompt at a time, with every denoiser call and the image decoded; both sides again for each
concept. A hook on each feed-forward's GEGLU computes the activation a second time and copies
it to host memory, where rows are normalised and column norms accumulated. Then, for every call and
layer, both sides' scores are fully sorted; the union over the first tau calls comes last.

It differs from the public reference only where that would change the mask or could not run here:
float32 instead of float16, stable sorting, any scheduler. In its favour, masks of single calls stay
in memory instead of going through pickles on disk, and no activation is kept once it is summed.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from diffusers import StableDiffusionPipeline
from diffusers.models.activations import GEGLU
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """One base and one target prompt, denoised from the same noise."""

    base: str
    target: str
    seed: int = 0


@dataclass(kw_only=True, slots=True)
class ColumnNorms:
    """Running column norms of one feed-forward: a [columns] vector for each denoiser call."""

    calls: list[Tensor] = field(default_factory=list)

    def update(self, call: int, rows: Tensor) -> None:
        norms = rows.norm(dim=0)
        if call == len(self.calls):
            self.calls.append(norms)
        else:
            self.calls[call] = torch.sqrt(self.calls[call] ** 2 + norms**2)


Norms = dict[str, ColumnNorms]
"""By name of the feed-forward's second linear."""


def collect_norms(
    pipe: StableDiffusionPipeline, pairs: Sequence[Pair], *, steps: int, guidance: float
) -> tuple[Norms, Norms]:
    """Generate both images of every pair; returns the norms of (base, target) prompts."""
    gates = {
        f"{name.removesuffix('.net.0')}.net.2": module
        for name, module in pipe.unet.named_modules()
        if isinstance(module, GEGLU)
    }
    base: Norms = {name: ColumnNorms() for name in gates}
    target: Norms = {name: ColumnNorms() for name in gates}
    for pair in pairs:
        _observe(pipe, gates, base, pair.base, pair.seed, steps, guidance)
        _observe(pipe, gates, target, pair.target, pair.seed, steps, guidance)
    return base, target


def skilled_weights(
    pipe: StableDiffusionPipeline,
    base: Norms,
    target: Norms,
    *,
    sparsity: float,
    tau: int,
    threshold: float = 0.0,
) -> dict[str, Tensor]:
    """The concept's boolean masks [rows, columns], by name of the feed-forward's second linear."""
    return {
        name: _layer_mask(
            pipe.unet.get_submodule(name).weight.detach(),
            base[name].calls,
            target[name].calls,
            sparsity,
            tau,
            threshold,
        )
        for name in base
    }


def _observe(
    pipe: StableDiffusionPipeline,
    gates: dict[str, GEGLU],
    norms: Norms,
    prompt: str,
    seed: int,
    steps: int,
    guidance: float,
) -> None:
    """Generate one image of `prompt` and add its activations to `norms`."""
    num_seen = dict.fromkeys(gates, 0)

    def observe(name: str, gate: GEGLU, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        hidden, opening = gate.proj(args[0]).chunk(2, dim=-1)
        activation: Tensor = hidden * gate.gelu(opening)
        rows = activation.clone().view(-1, activation.shape[-1]).detach().cpu()
        norms[name].update(num_seen[name], F.normalize(rows, p=2, dim=1))
        num_seen[name] += 1
        return activation

    handles = [
        gate.register_forward_hook(functools.partial(observe, name)) for name, gate in gates.items()
    ]
    try:
        pipe(
            prompt,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=torch.Generator("cpu").manual_seed(seed),
        )
    finally:
        for handle in handles:
            handle.remove()


def _layer_mask(
    weight: Tensor,
    base: list[Tensor],
    target: list[Tensor],
    sparsity: float,
    tau: int,
    threshold: float,
) -> Tensor:
    """Wanda masks of every call, then their union over the first `tau`."""
    skilled = [
        _call_mask(weight, base_norms, target_norms, sparsity)
        for base_norms, target_norms in zip(base, target, strict=True)
    ]
    votes = torch.zeros(weight.shape, dtype=torch.int32)
    for rows, columns in skilled[:tau]:
        votes[rows, columns] += 1
    return votes > threshold * tau


def _call_mask(
    weight: Tensor, base_norms: Tensor, target_norms: Tensor, sparsity: float
) -> tuple[Tensor, Tensor]:
    """The (row, column) indices of one call's skilled weights."""
    base_scores = weight.abs() * base_norms
    target_scores = weight.abs() * target_norms
    keep = int(sparsity * weight.shape[1])
    # The base's order is never used, but the published procedure pays for it.
    base_scores.sort(dim=1, descending=True)
    order = target_scores.sort(dim=1, descending=True, stable=True).indices
    top = torch.zeros_like(weight).scatter_(1, order[:, :keep], 1)
    rows, columns = (top * (target_scores > base_scores)).nonzero(as_tuple=True)
    return rows, columns
