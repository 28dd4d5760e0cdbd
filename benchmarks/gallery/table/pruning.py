"""Masks of the gallery's artists, by the published selectors, and their fusions."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import pyarrow.parquet as pq
from torch import Tensor

from benchmarks.gallery.captions import caption
from benchmarks.gallery.names import ARTISTS, THINGS
from benchmarks.gallery.sampling import GUIDANCE
from conceptprune.baselines.controls import Choose, control_mask
from conceptprune.collection.collect import collect
from conceptprune.collection.statistics import Statistics
from conceptprune.manifest import Collection, Fuse, SelectorName
from conceptprune.masks.budget import Drive
from conceptprune.masks.fusion import Drives, fuse_masks
from conceptprune.masks.mask import PruningMask
from conceptprune.masks.selectors import Evidence, named_selector, select_mask
from conceptprune.models.base import DiffusionModel
from conceptprune.models.prompt import Prompt

SITE = "ffn_out"
COLLECTION = Collection(steps=50, tau=10, guidance=GUIDANCE, batch_size=16)
"""As published, but with the gallery's guidance; its 16 things take the place of 20 fillers."""


class Masks:
    """Makes masks from statistics that are collected once and kept in a folder."""

    def __init__(self, model: DiffusionModel, folder: Path) -> None:
        self.model, self.folder = model, folder
        self.folder.mkdir(parents=True, exist_ok=True)
        linears = model.site_linears((SITE,))
        # Copies: rows are measured with other weights in the same model.
        self.weights = {name: each.linear.weight.detach().clone() for name, each in linears.items()}
        self._masks: dict[tuple[SelectorName, int], PruningMask] = {}

    def side(self, look: int) -> Statistics:
        """Statistics of an artist's prompts, or of the photos' (0); the model must be untouched."""
        path = self.folder / f"{look}.parquet"
        if not path.exists():
            prompts = [Prompt(text=caption(thing, look), seed=0) for thing in range(len(THINGS))]
            found = collect(self.model, prompts, COLLECTION, site=SITE)
            partial = path.with_suffix(".partial")
            pq.write_table(found.to_arrow(), partial)
            partial.replace(path)
        return Statistics.from_arrow(pq.read_table(path))

    @cached_property
    def photos(self) -> Statistics:
        """The base side of every artist."""
        return self.side(0)

    def of(self, selector: SelectorName, look: int) -> PruningMask:
        """One artist's mask with the published settings."""
        if (selector, look) not in self._masks:
            self._masks[selector, look] = select_mask(
                self.weights,
                Evidence(target=self.side(look), base=self.photos),
                named_selector(selector),
                concept=ARTISTS[look - 1].name,
                component=self.model.component,
                provenance={"model": "gallery"},
            )
        return self._masks[selector, look]

    def fused(self, selector: SelectorName, looks: tuple[int, ...], fusion: Fuse) -> PruningMask:
        """One mask of several artists."""
        masks = [self.of(selector, look) for look in looks]
        if len(masks) == 1 and fusion.how != "budget":
            return masks[0]
        drives = None
        if fusion.how == "budget":
            concepts = [Drive.of(self.weights, self.side(look), self.photos) for look in looks]
            drives = Drives(weights=self.weights, concepts=concepts)
        return fuse_masks(masks, fusion, drives)

    def control(self, like: PruningMask, choose: Choose) -> PruningMask:
        """As many entries of each layer as `like` has."""
        counts = {name: len(layer.entries) for name, layer in like.layers.items()}
        return control_mask(self.weights, like, counts, choose)

    def pruned(self, mask: PruningMask) -> Mapping[str, Tensor]:
        """The weights of the site without the mask's entries, by parameter name."""
        pruned = mask.pruned_weights(self.weights)
        return {f"{name}.weight": weight for name, weight in pruned.items()}
