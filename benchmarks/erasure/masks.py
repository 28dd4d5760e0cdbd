"""Masks of the studio's artists under many settings, from one collection."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from conceptprune.baselines.controls import Choose, at_random, control_mask
from conceptprune.collection.collect import collect
from conceptprune.collection.statistics import Statistics
from conceptprune.manifest import BaseRule, Collection, Fuse, Pruning
from conceptprune.manifest.collection import GuidanceBranches
from conceptprune.masks.budget import Drive
from conceptprune.masks.fusion import Drives, fuse_masks
from conceptprune.masks.layer_mask import LayerMask
from conceptprune.masks.mask import PruningMask
from conceptprune.masks.selectors import (
    Evidence,
    NamedSelector,
    Selector,
    named_selector,
    select_mask,
)
from conceptprune.models.prompt import Prompt
from conceptprune.models.sites import SITES, site_linears
from conceptprune.models.stable_diffusion import StableDiffusion
from conceptprune.studio.names import ARTISTS, THINGS

COLLECTION_SEED = 0
BATCH_SIZE = 12
SITE = "ffn_out"


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One point of the frontier."""

    sparsity: float
    tau: int
    halves: GuidanceBranches = "both"
    """Guidance branches that are collected; results.jsonl has it under this name."""
    base: BaseRule = "plain"


def photo_prompt(thing: str) -> str:
    return f"a photo of a {thing}"


def artist_prompt(thing: str, artist: str) -> str:
    return f"a {thing} in the style of {artist}"


class MaskMaker:
    """Collects every artist and the photos once for each choice of guidance branches."""

    def __init__(
        self, model: StableDiffusion, *, steps: int, guidance: float, calls: int | None = None
    ) -> None:
        """Collect the first `calls` denoiser calls; by default, all."""
        self.model = model
        self.steps = steps
        self.calls = calls or steps
        self.guidance = guidance
        self.seconds: dict[tuple[GuidanceBranches, str | None], float] = {}
        """CPU time of collecting each side."""
        self._sides: dict[tuple[GuidanceBranches, str | None], Statistics] = {}
        linears = site_linears(model.denoiser, SITES[SITE])
        self._weights = {name: linear.weight.detach() for name, linear in linears.items()}

    def side(self, branches: GuidanceBranches, artist: str | None) -> Statistics:
        """Statistics of an artist's prompts, or of photos (None)."""
        if (branches, artist) not in self._sides:
            texts = [artist_prompt(t, artist) if artist else photo_prompt(t) for t in THINGS]
            settings = Collection(
                steps=self.steps,
                tau=self.calls,
                guidance=self.guidance,
                guidance_branches=branches,
                batch_size=BATCH_SIZE,
            )
            prompts = [Prompt(text=text, seed=COLLECTION_SEED) for text in texts]
            started = time.process_time()
            self._sides[branches, artist] = collect(self.model, prompts, settings, site=SITE)
            self.seconds[branches, artist] = time.process_time() - started
        return self._sides[branches, artist]

    def mask(self, artist: str, setting: Setting) -> PruningMask:
        """The mask of one artist; all others are retained, if the base rule uses retained ones."""
        retained = [
            self.side(setting.halves, other.name)
            for other in ARTISTS
            if setting.base != "plain" and other.name != artist
        ]
        evidence = Evidence(
            target=self.side(setting.halves, artist),
            base=self.side(setting.halves, None),
            retained=retained,
            rule=setting.base,
        )
        selector = named_selector("conceptprune", sparsity=setting.sparsity, tau=setting.tau)
        return self._select(artist, evidence, selector)

    def fused(
        self, artists: Sequence[str], setting: Setting, fusion: Fuse, retained: Sequence[str]
    ) -> PruningMask:
        """One mask for several artists; a budget spares the retained ones."""
        return self.fused_masks(
            [self.mask(artist, setting) for artist in artists], setting, fusion, retained
        )

    def fused_masks(
        self,
        masks: Sequence[PruningMask],
        setting: Setting,
        fusion: Fuse,
        retained: Sequence[str],
    ) -> PruningMask:
        """One mask fused from several artists' masks, in their order."""
        if fusion.how != "budget":
            return fuse_masks(masks, fusion)
        drives = Drives(
            weights=self._weights,
            concepts=[self._drive(mask.concepts[0], setting) for mask in masks],
            retained=[self._drive(artist, setting) for artist in retained],
        )
        return fuse_masks(masks, fusion, drives)

    def fia_mask(self, artist: str, settings: Pruning) -> PruningMask:
        """The mask of one artist by Forget-It-All's selector, from both guidance branches."""
        evidence = Evidence(target=self.side("both", artist), base=self.side("both", None))
        return self._select(artist, evidence, NamedSelector(settings=settings))

    def _select(self, artist: str, evidence: Evidence, selector: Selector) -> PruningMask:
        return select_mask(
            self._weights,
            evidence,
            selector,
            concept=artist,
            component=StableDiffusion.component,
            provenance={"model": "studio"},
        )

    def _drive(self, artist: str, setting: Setting) -> Drive:
        target, base = self.side(setting.halves, artist), self.side(setting.halves, None)
        return Drive.of(self._weights, target, base, setting.tau)

    def whole_site(self) -> PruningMask:
        """A mask of every weight of the site: the most that pruning can do."""
        return self._mask("(all)", {n: np.arange(w.numel()) for n, w in self._weights.items()})

    def random_like(self, mask: PruningMask, seed: int) -> PruningMask:
        """As many entries in each layer as `mask` has, at random."""
        return self.control_like(mask, at_random(seed))

    def control_like(self, mask: PruningMask, choose: Choose) -> PruningMask:
        """As many entries in each layer as `mask` has, chosen by `choose`."""
        counts = {name: len(layer.entries) for name, layer in mask.layers.items()}
        return control_mask(self._weights, mask, counts, choose)

    def _mask(self, name: str, entries: dict[str, np.ndarray]) -> PruningMask:
        layers = {
            layer: LayerMask.of(weight, entries[layer]) for layer, weight in self._weights.items()
        }
        return PruningMask(
            concepts=(name,),
            component=StableDiffusion.component,
            layers=layers,
            provenance={"model": "studio"},
        )


def frontier(
    published: Setting, chosen: Setting, sparsities: Sequence[float], taus: Sequence[int]
) -> list[Setting]:
    """k around both settings; then, around the chosen one, tau, and all branches with all bases."""
    every: tuple[GuidanceBranches, ...] = ("both", "conditional")
    bases: tuple[BaseRule, ...] = ("plain", "plain+retained-mean", "plain+retained-max")
    settings = [replace(published, sparsity=k) for k in sparsities]
    settings += [replace(chosen, sparsity=k) for k in sparsities]
    settings += [replace(chosen, tau=tau) for tau in taus]
    settings += [replace(chosen, halves=each, base=base) for each in every for base in bases]
    return list(dict.fromkeys(settings))
