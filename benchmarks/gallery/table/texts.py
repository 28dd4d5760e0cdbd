"""Closed-form edits of cross-attention's keys and values, by the texts of the gallery."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from benchmarks.gallery.captions import caption
from benchmarks.gallery.names import ARTISTS, THINGS
from benchmarks.gallery.table.questions import KEPT_LOOKS
from conceptprune.baselines.rece import ReceSettings, gram_of, rece_map
from conceptprune.baselines.speed import SpeedSettings, speed_weights
from conceptprune.baselines.texts import PHRASES, encoded
from conceptprune.baselines.uce import Edit, Encoded, UceSettings, uce_map
from conceptprune.edits.moments import Moments, Shift
from conceptprune.edits.projections import VALUE_SITES, edited, prompt_projections
from conceptprune.edits.reword import (
    concept_shift,
    prompt_moments,
    reword_map,
    vocabulary_moments,
)
from conceptprune.manifest import Reword
from conceptprune.models.base import DiffusionModel
from conceptprune.prompts.vocabulary import words_of
from conceptprune.studio.training.captions import NUM_TEMPLATES, PHOTO_CAPTIONS

Baseline = UceSettings | ReceSettings | SpeedSettings
Looks = tuple[int, ...]
"""Looks of several artists; 0 is the photos'."""


Which = tuple[tuple[int, int], ...]
"""Captions of a look: thing and template of each."""
DEMO_THINGS = ("cat", "car", "tree", "house", "fish", "boat", "apple", "guitar")
ALL: Which = tuple(
    (thing, template) for template in range(NUM_TEMPLATES) for thing in range(len(THINGS))
)
"""Things within templates."""
FEW: Which = tuple((THINGS.index(thing), 0) for thing in DEMO_THINGS)
"""Those that the demo's manifest has, of one template and half of the things."""
EVERY_THING: Which = ALL[: len(THINGS)]
"""Every thing once, in the published prompt: the other three wordings are only asked."""
TWO_WORDINGS: Which = ALL[: 2 * len(THINGS)]
"""Every thing in two of the four wordings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """Which texts UCE, RECE and SPEED are made from; the defaults are their authors' for styles."""

    guide: str = "art"
    """What an artist's name becomes."""
    phrases: bool = False
    """Whether UCE's phrases of names are taken, too, of those erased and of those kept."""
    photos: bool = False
    """Whether the photos' captions and the empty one are preserved, too."""


AUTHORS = Wording()


class Texts:
    """The gallery's texts as cross-attention sees them, and the edits made from them."""

    def __init__(self, model: DiffusionModel, kept: Looks = KEPT_LOOKS) -> None:
        self.model = model
        self.kept = kept
        linears = prompt_projections(model)
        self.weights = {name: linear.weight.detach().clone() for name, linear in linears.items()}
        self._values = tuple(prompt_projections(model, VALUE_SITES))
        self._encoded: dict[str, Encoded] = {}
        self._kept: dict[tuple[int, Which], Moments] = {}
        self._erased: dict[tuple[int, Which], Shift] = {}

    def encoded(self, text: str) -> Encoded:
        """One text's states, encoded once."""
        if text not in self._encoded:
            self._encoded[text] = encoded(self.model, text)
        return self._encoded[text]

    def edits(self, looks: Looks, wording: Wording) -> list[Edit]:
        """Each artist's name, and its phrases, become the guide's."""
        return [
            Edit(erased=self.encoded(name), guide=self.encoded(guide))
            for look in looks
            for name, guide in zip(
                _named(look, wording), _worded(wording.guide, wording), strict=True
            )
        ]

    def preserved(self, wording: Wording) -> list[Encoded]:
        """The kept artists by name, and what else the wording preserves."""
        texts = [name for look in self.kept for name in _named(look, wording)]
        if wording.photos:
            texts += [*captions(0), ""]
        return [self.encoded(text) for text in texts]

    def edited(self, change: Tensor) -> Mapping[str, Tensor]:
        """All keys and values times one map [D, D], by parameter name."""
        return {f"{n}.weight": w for n, w in edited(self.weights, change).items()}

    def uce(
        self, looks: Looks, settings: UceSettings, wording: Wording = AUTHORS
    ) -> Mapping[str, Tensor]:
        """UCE of artists by name."""
        return self.edited(uce_map(self.edits(looks, wording), self.preserved(wording), settings))

    def rece(
        self, looks: Looks, settings: ReceSettings, wording: Wording = AUTHORS
    ) -> Mapping[str, Tensor]:
        """RECE of artists by name; the empty text is preserved, as in its authors' script."""
        preserved = self.preserved(wording)
        if not wording.photos:
            preserved.append(self.encoded(""))
        gram = gram_of(list(self.weights.values()))
        return self.edited(rece_map(self.edits(looks, wording), preserved, gram, settings))

    def speed(
        self, looks: Looks, settings: SpeedSettings, wording: Wording = AUTHORS
    ) -> Mapping[str, Tensor]:
        """SPEED of artists by name, in the values alone."""
        values = {name: self.weights[name] for name in self._values}
        edits, preserved = self.edits(looks, wording), self.preserved(wording)
        found = speed_weights(values, edits, preserved, self.encoded(""), settings)
        return {f"{name}.weight": weight for name, weight in found.items()}

    def baseline(self, looks: Looks, settings: Baseline, wording: Wording) -> Mapping[str, Tensor]:
        """The baseline that the settings are of."""
        match settings:
            case UceSettings():
                return self.uce(looks, settings, wording)
            case ReceSettings():
                return self.rece(looks, settings, wording)
            case SpeedSettings():
                return self.speed(looks, settings, wording)

    def reworded(self, looks: Looks, settings: Reword, which: Which = ALL) -> Mapping[str, Tensor]:
        """Our rewording, by captions of the artists and of the photos."""
        change = reword_map(
            [self._shift(look, which) for look in looks],
            [self._moments(look, which) for look in self.kept],
            [self._moments(0, which)],
            prompt_moments(self.model, [""]),
            settings,
            self._vocabulary(looks, settings.words),
        )
        return self.edited(change)

    def _vocabulary(self, looks: Looks, count: int) -> Moments | None:
        """Of photos' captions with common words in the place of things."""
        if not count:
            return None
        erased = words_of([ARTISTS[look - 1].name for look in looks])
        photo = PHOTO_CAPTIONS[0].format(thing="{filler}")
        return vocabulary_moments(self.model, [photo], count=count, without=erased)

    def _moments(self, look: int, which: Which) -> Moments:
        """Of captions of a look."""
        if (look, which) not in self._kept:
            self._kept[look, which] = prompt_moments(self.model, captions(look, which))
        return self._kept[look, which]

    def _shift(self, look: int, which: Which) -> Shift:
        """From an artist's captions to the photos' of the same things."""
        if (look, which) not in self._erased:
            photos = [caption(thing, 0) for thing, _ in which]
            pairs = zip(photos, captions(look, which), strict=True)
            self._erased[look, which] = concept_shift(self.model, ARTISTS[look - 1].name, pairs)
        return self._erased[look, which]


def _named(look: int, wording: Wording) -> list[str]:
    """An artist's name, and its phrases."""
    return _worded(ARTISTS[look - 1].name, wording)


def _worded(name: str, wording: Wording) -> list[str]:
    phrases: Sequence[str] = PHRASES["style"] if wording.phrases else ()
    return [name, *(phrase.format(name) for phrase in phrases)]


def captions(look: int, which: Which = ALL) -> list[str]:
    """Captions of a look."""
    return [caption(thing, look, template) for thing, template in which]
