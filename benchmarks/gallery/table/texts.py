"""Closed-form edits of cross-attention's keys and values, by the texts of the gallery."""

from collections.abc import Mapping

from torch import Tensor

from benchmarks.gallery.captions import caption
from benchmarks.gallery.names import ARTISTS, THINGS
from benchmarks.gallery.table.questions import KEPT_LOOKS
from conceptprune.baselines.rece import ReceSettings, gram_of, rece_map
from conceptprune.baselines.texts import encoded
from conceptprune.baselines.uce import Edit, Encoded, UceSettings, uce_map
from conceptprune.edits.moments import Moments, Shift
from conceptprune.edits.projections import edited, prompt_projections
from conceptprune.edits.reword import concept_shift, prompt_moments, reword_map
from conceptprune.manifest import Reword
from conceptprune.models.base import DiffusionModel
from conceptprune.studio.training.captions import NUM_TEMPLATES

Looks = tuple[int, ...]
"""Looks of several artists; 0 is the photos'."""


class Texts:
    """The gallery's texts as cross-attention sees them, and the edits made from them."""

    def __init__(self, model: DiffusionModel) -> None:
        self.model = model
        linears = prompt_projections(model)
        self.weights = {name: linear.weight.detach().clone() for name, linear in linears.items()}
        self._encoded: dict[str, Encoded] = {}
        self._kept: dict[int, Moments] = {}
        self._erased: dict[int, Shift] = {}

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

    def reworded(self, looks: Looks, settings: Reword) -> Mapping[str, Tensor]:
        """Our rewording, by all captions of the artists and of the photos."""
        change = reword_map(
            [self._shift(look) for look in looks],
            [self._moments(look) for look in KEPT_LOOKS],
            [self._moments(0)],
            prompt_moments(self.model, [""]),
            settings,
        )
        return self.edited(change)

    def _moments(self, look: int) -> Moments:
        """Of all captions of a look."""
        if look not in self._kept:
            self._kept[look] = prompt_moments(self.model, captions(look))
        return self._kept[look]

    def _shift(self, look: int) -> Shift:
        """From an artist's captions to the photos' of the same things."""
        if look not in self._erased:
            photos = [
                caption(thing, 0) for _ in range(NUM_TEMPLATES) for thing in range(len(THINGS))
            ]
            pairs = zip(photos, captions(look), strict=True)
            self._erased[look] = concept_shift(self.model, ARTISTS[look - 1].name, pairs)
        return self._erased[look]


def captions(look: int) -> list[str]:
    """All captions of a look, things within templates."""
    return [
        caption(thing, look, template)
        for template in range(NUM_TEMPLATES)
        for thing in range(len(THINGS))
    ]
