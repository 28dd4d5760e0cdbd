"""Masks of the studio's artists under many settings, from one collection."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from conceptprune.budget import Drive
from conceptprune.collect import CollectionSettings, collect
from conceptprune.families.stable_diffusion import StableDiffusion
from conceptprune.fusion import Drives, Fusion, fuse_masks
from conceptprune.mask import LayerMask, PruningMask
from conceptprune.prompts import Prompt
from conceptprune.select import BaseRule, SelectionSettings, base_energy, select_entries
from conceptprune.sites import SITES, site_linears
from conceptprune.statistics import Statistics
from conceptprune.studio.names import ARTISTS, THINGS
from conceptprune.weights import weight_digest

Halves = Literal["both", "conditional"]
COLLECTION_SEED = 0
BATCH_SIZE = 12
SITE = "ffn_out"


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One point of the frontier."""

    sparsity: float
    tau: int
    halves: Halves = "both"
    base: BaseRule = "plain"


def photo_prompt(thing: str) -> str:
    return f"a photo of a {thing}"


def artist_prompt(thing: str, artist: str) -> str:
    return f"a {thing} in the style of {artist}"


class MaskMaker:
    """Collects every artist and the photos once for each choice of halves, all calls."""

    def __init__(self, model: StableDiffusion, *, steps: int, guidance: float) -> None:
        self.model = model
        self.steps = steps
        self.guidance = guidance
        self._sides: dict[tuple[Halves, str | None], Statistics] = {}
        linears = site_linears(model.denoiser, SITES[SITE])
        self._weights = {name: linear.weight.detach() for name, linear in linears.items()}

    def side(self, halves: Halves, artist: str | None) -> Statistics:
        """Statistics of an artist's prompts, or of photos (None), over all calls."""
        if (halves, artist) not in self._sides:
            texts = [artist_prompt(t, artist) if artist else photo_prompt(t) for t in THINGS]
            settings = CollectionSettings(
                steps=self.steps,
                tau=self.steps,
                guidance=self.guidance,
                halves=halves,
                batch_size=BATCH_SIZE,
                site=SITE,
            )
            prompts = [Prompt(text=text, seed=COLLECTION_SEED) for text in texts]
            self._sides[halves, artist] = collect(self.model, prompts, settings)
        return self._sides[halves, artist]

    def mask(self, artist: str, setting: Setting) -> PruningMask:
        """The mask of one artist; every other artist counts as retained where the base asks."""
        target = self.side(setting.halves, artist)
        retained = [
            self.side(setting.halves, other.name)
            for other in ARTISTS
            if setting.base != "plain" and other.name != artist
        ]
        plain = self.side(setting.halves, None)
        base = base_energy(plain, retained, setting.base, num_prompts=target.num_prompts)
        selection = SelectionSettings(sparsity=setting.sparsity, tau=setting.tau)
        return self._mask(artist, select_entries(self._weights, target.energy(), base, selection))

    def fused(
        self, artists: Sequence[str], setting: Setting, fusion: Fusion, retained: Sequence[str]
    ) -> PruningMask:
        """One mask for several artists; a budget spares the retained ones."""
        drives = Drives(
            weights=self._weights,
            concepts=[self._drive(artist, setting) for artist in artists],
            retained=[self._drive(artist, setting) for artist in retained],
        )
        return fuse_masks((self.mask(artist, setting) for artist in artists), fusion, drives)

    def _drive(self, artist: str, setting: Setting) -> Drive:
        target, base = self.side(setting.halves, artist), self.side(setting.halves, None)
        return Drive.of(self._weights, target, base, setting.tau)

    def whole_site(self) -> PruningMask:
        """A mask of every weight of the site: what pruning could do at the most."""
        return self._mask("(all)", {n: np.arange(w.numel()) for n, w in self._weights.items()})

    def random_like(self, mask: PruningMask, seed: int) -> PruningMask:
        """As many entries in each layer as `mask` has, anywhere."""
        rng = np.random.default_rng(seed)
        entries = {
            name: np.sort(
                rng.choice(self._weights[name].numel(), len(layer.entries), replace=False)
            )
            for name, layer in mask.layers.items()
        }
        return self._mask("(random)", entries)

    def _mask(self, name: str, entries: dict[str, np.ndarray]) -> PruningMask:
        layers = {
            layer: LayerMask(
                shape=(weight.shape[0], weight.shape[1]),
                entries=entries[layer],
                weight_digest=weight_digest(weight),
            )
            for layer, weight in self._weights.items()
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
    """k through both settings; then tau, halves and base one at a time through the chosen one."""
    halves: tuple[Halves, ...] = ("both", "conditional")
    bases: tuple[BaseRule, ...] = ("plain", "plain+retained-mean", "plain+retained-max")
    settings = [replace(published, sparsity=k) for k in sparsities]
    settings += [replace(chosen, sparsity=k) for k in sparsities]
    settings += [replace(chosen, tau=tau) for tau in taus]
    settings += [replace(chosen, halves=half, base=base) for half in halves for base in bases]
    return list(dict.fromkeys(settings))
