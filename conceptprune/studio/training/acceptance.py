"""Measure a trained studio: whole, without its feed-forwards, and with artists erased."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from conceptprune.studio.judge import Judge
from conceptprune.studio.names import ARTISTS, THINGS
from conceptprune.studio.training.captions import caption
from conceptprune.studio.training.sampling import NUM_STEPS, Studio

COLLECTION_SEED = 0
NUM_THINGS, NUM_LOOKS = len(THINGS), len(ARTISTS) + 1

Energies = dict[str, Tensor]
Masks = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """How skilled weights are chosen; `base` is plain, mean or max over photos and artists."""

    k: float
    tau: int
    branches: str
    base: str


@dataclass(frozen=True, slots=True)
class Sheet:
    """Judged images; int arrays [n] of what was asked for and what was seen."""

    thing: NDArray[np.int64]
    look: NDArray[np.int64]
    seen_thing: NDArray[np.int64]
    seen_look: NDArray[np.int64]

    def rates(self, chosen: NDArray[np.bool_]) -> tuple[float, float]:
        """Shares of the chosen images that show the requested look and thing."""
        look = float(np.mean((self.seen_look == self.look)[chosen]))
        return look, float(np.mean((self.seen_thing == self.thing)[chosen]))


def generate_sheet(studio: Studio, judge: Judge, looks: list[int], seeds: list[int]) -> Sheet:
    """All things in each of the looks, with every seed."""
    asked = [(thing, look, seed) for look in looks for seed in seeds for thing in range(NUM_THINGS)]
    prompts = [caption(thing, look, 0) for thing, look, _ in asked]
    # Every image has its own noise, whatever else is generated with it.
    noises = [1000 * seed + 20 * thing + look for thing, look, seed in asked]
    verdicts = judge.verdicts(studio.generate(prompts, noises))
    thing, look, _ = np.array(asked).T
    return Sheet(thing, look, verdicts.thing, verdicts.artist)


def collect(studio: Studio) -> list[Energies]:
    """Energies of each look's prompts, summed over prompts: per site [calls, branches, neurons]."""
    energies = []
    for look in range(NUM_LOOKS):
        prompts = [caption(thing, look, 0) for thing in range(NUM_THINGS)]
        seen = studio.energies(prompts, [COLLECTION_SEED] * NUM_THINGS, NUM_STEPS)
        energies.append({name: calls.sum(2) for name, calls in seen.items()})
    return energies


def norms(energy: Tensor, setting: Setting) -> Tensor:
    """Column norms [calls, neurons] of the calls and guidance branches the setting uses."""
    calls = energy[: setting.tau]
    return (calls[:, 1] if setting.branches == "conditional" else calls.sum(1)).sqrt()


def skilled(studio: Studio, energies: list[Energies], look: int, setting: Setting) -> Masks:
    """ConceptPrune's masks, united over the first tau calls."""
    masks = {}
    for name, linear in studio.sites.items():
        weight = linear.weight.detach().abs()
        target = norms(energies[look][name], setting)
        if setting.base == "plain":
            base = norms(energies[0][name], setting)
        else:
            rest = [e[name] for other, e in enumerate(energies) if other != look]
            stack = torch.stack(rest)
            united = stack.mean(0) if setting.base == "mean" else stack.amax(0)
            base = norms(united, setting)
        count = int(setting.k * weight.shape[1])
        mask = torch.zeros_like(weight, dtype=torch.bool)
        for a_target, a_base in zip(target, base, strict=True):
            scores = weight * a_target
            top = torch.zeros_like(mask).scatter_(1, scores.topk(count, 1).indices, True)
            mask |= top & (scores > weight * a_base)
        masks[name] = mask
    return masks


def unite(masks: list[Masks]) -> Masks:
    """The union of several masks."""
    return {name: torch.stack([m[name] for m in masks]).any(0) for name in masks[0]}


def everything(studio: Studio) -> Masks:
    """Masks that zero the whole site."""
    return {n: torch.ones_like(m.weight, dtype=torch.bool) for n, m in studio.sites.items()}


def scattered(masks: Masks, seed: int) -> Masks:
    """Random masks with as many entries in each layer."""
    generator = torch.Generator().manual_seed(seed)
    out = {}
    for name, mask in masks.items():
        order = torch.randperm(mask.numel(), generator=generator)
        out[name] = mask.flatten()[order].view_as(mask)
    return out


def density(masks: Masks) -> float:
    """The masked fraction of the site's entries."""
    return sum(int(m.sum()) for m in masks.values()) / sum(m.numel() for m in masks.values())


@contextmanager
def pruned(studio: Studio, masks: Masks) -> Iterator[None]:
    """The studio with the masked weights at zero; restored afterwards."""
    before = {name: studio.sites[name].weight.detach().clone() for name in masks}
    with torch.no_grad():
        for name, mask in masks.items():
            studio.sites[name].weight.masked_fill_(mask, 0)
    try:
        yield
    finally:
        with torch.no_grad():
            for name, weight in before.items():
                studio.sites[name].weight.copy_(weight)
