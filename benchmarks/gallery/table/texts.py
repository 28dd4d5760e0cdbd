"""Closed-form edits of cross-attention's keys and values, by the texts of the gallery."""

from collections.abc import Mapping
from functools import reduce

import torch
from torch import Tensor

from benchmarks.gallery.captions import caption
from benchmarks.gallery.names import ARTISTS, THINGS
from benchmarks.gallery.table.questions import KEPT_LOOKS
from conceptprune.baselines.rece import ReceSettings, gram_of, rece_map
from conceptprune.baselines.texts import encoded, prompt_projections
from conceptprune.baselines.uce import Edit, Encoded, UceSettings, edited, uce_map
from conceptprune.edits.moments import Moments, Shift, merged, shift_map
from conceptprune.models.base import DiffusionModel
from conceptprune.studio.training.captions import NUM_TEMPLATES

NAME_WORDS = 2
"""Each is one token."""
Looks = tuple[int, ...]
"""Looks of several artists; 0 is the photos'."""


class Texts:
    """The gallery's texts as cross-attention sees them, and the edits made from them."""

    def __init__(self, model: DiffusionModel) -> None:
        self.model = model
        linears = prompt_projections(model)
        self.weights = {name: linear.weight.detach().clone() for name, linear in linears.items()}
        self._encoded: dict[str, Encoded] = {}

    def encoded(self, text: str) -> Encoded:
        """One text's states, encoded once."""
        if text not in self._encoded:
            self._encoded[text] = encoded(self.model, text)
        return self._encoded[text]

    def by_name(self, looks: Looks, guide: str) -> list[Edit]:
        """Each artist's name becomes the guide, as in the authors' scripts."""
        return [
            Edit(erased=self.encoded(ARTISTS[look - 1].name), guide=self.encoded(guide))
            for look in looks
        ]

    def kept_names(self) -> list[Encoded]:
        """The kept artists, by name."""
        return [self.encoded(ARTISTS[look - 1].name) for look in KEPT_LOOKS]

    def captions(self, looks: Looks) -> Tensor:
        """States [captions of each look in turn, tokens, D] of all captions of these looks."""
        texts = [
            caption(thing, look, template)
            for look in looks
            for template in range(NUM_TEMPLATES)
            for thing in range(len(THINGS))
        ]
        return torch.stack([self.encoded(text).states for text in texts])

    def edited(self, change: Tensor) -> Mapping[str, Tensor]:
        """All keys and values times one map [D, D], by parameter name."""
        return {f"{n}.weight": w for n, w in edited(self.weights, change).items()}

    def uce(self, looks: Looks, settings: UceSettings, guide: str) -> Mapping[str, Tensor]:
        """UCE as its authors run it; the kept artists are preserved by name."""
        return self.edited(uce_map(self.by_name(looks, guide), self.kept_names(), settings))

    def rece(self, looks: Looks, settings: ReceSettings) -> Mapping[str, Tensor]:
        """RECE as its authors run it; the kept artists and the empty text are preserved."""
        preserved = [*self.kept_names(), self.encoded("")]
        gram = gram_of(list(self.weights.values()))
        return self.edited(rece_map(self.by_name(looks, "art"), preserved, gram, settings))

    def on_prompts(self, looks: Looks, strength: float) -> Mapping[str, Tensor]:
        """Every token from the name on becomes the one at its place in the photo's caption; all
        tokens of the captions of kept artists and photos stay, photos twice as strongly."""
        erased = reduce(Shift.merge, (self._shift(look) for look in looks))
        photos = [Moments.of(self.captions((0,))), Moments.of(self.encoded("").states)]
        kept = merged([Moments.of(self.captions((look,))) for look in KEPT_LOOKS])
        return self.edited(shift_map(erased, [(2 * strength, merged(photos)), (strength, kept)]))

    def _shift(self, look: int) -> Shift:
        """From an artist's captions to the photos' of the same things."""
        erased, wanted = [], []
        for template in range(NUM_TEMPLATES):
            for thing in range(len(THINGS)):
                own = self.encoded(caption(thing, look, template))
                name = own.last - NAME_WORDS + 1
                erased.append(own.states[name:])
                wanted.append(self.encoded(caption(thing, 0)).states[name:])
        return Shift.of(torch.cat(erased), torch.cat(wanted))
