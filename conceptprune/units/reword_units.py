"""The kinds of units that reword concepts: what they sum of encoded prompts, and the edit."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from conceptprune.digest import unit_key
from conceptprune.edits.formats import SUMS_FORMAT
from conceptprune.manifest import Reword
from conceptprune.manifest.model_settings import ModelSettings
from conceptprune.units.unit import Need, Unit

if TYPE_CHECKING:
    from conceptprune.units.sizes import Sizes


@dataclass(frozen=True, slots=True, kw_only=True)
class ShiftUnit(Unit):
    """Sum, over one concept's prompts, what keys and values hear and what they should hear."""

    title = "Sums of what is reworded"
    warm = True
    intermediate = True

    concept: str
    pairs: tuple[tuple[str, str], ...]
    """Texts without the concept (base) and with it (target)."""
    model: Mapping[str, str]
    """What of the model decides how a text is encoded."""

    @property
    def key(self) -> str:
        """Identity: the model, the texts, and the name that marks the concept's own words."""
        pairs = [list(pair) for pair in self.pairs]
        about = {"kind": "shift", "format": SUMS_FORMAT, **self.model}
        return unit_key({**about, "concept": self.concept, "pairs": pairs})

    @property
    def detail(self) -> str:
        """The concept's name."""
        return self.concept

    def bytes_written(self, sizes: "Sizes", units: Mapping[str, Unit]) -> int:
        """Two squares of the encoded prompt's width."""
        return sizes.second_moments(2)


@dataclass(frozen=True, slots=True, kw_only=True)
class MomentsUnit(Unit):
    """Sum, over prompts that should stay, what keys and values hear."""

    title = "Sums of what stays"
    warm = True
    intermediate = True

    texts: tuple[str, ...]
    model: Mapping[str, str]
    """What of the model decides how a text is encoded."""

    @property
    def key(self) -> str:
        """Identity: the model and the texts, in order."""
        about = {"kind": "moments", "format": SUMS_FORMAT, **self.model}
        return unit_key({**about, "texts": list(self.texts)})

    @property
    def detail(self) -> str:
        """How many prompts."""
        return f"{len(self.texts)} prompts that stay"

    def bytes_written(self, sizes: "Sizes", units: Mapping[str, Unit]) -> int:
        """One square of the encoded prompt's width."""
        return sizes.second_moments(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class VocabularyUnit(Unit):
    """Sum, over base prompts with common words as fillers, what keys and values hear."""

    title = "Sums of common words"
    warm = True
    intermediate = True

    templates: tuple[str, ...]
    """Base prompts with `{filler}` in them."""
    words: int
    """How many common words, at most."""
    without: tuple[str, ...]
    """The erased concepts' own words, which are left out; in lower case."""
    model: Mapping[str, str]
    """What of the model decides which words are common, and how a text is encoded."""

    @property
    def key(self) -> str:
        """Identity: the model, and all that decides the texts."""
        about = {"kind": "vocabulary", "format": SUMS_FORMAT, **self.model}
        texts = {"templates": list(self.templates), "without": list(self.without)}
        return unit_key({**about, **texts, "words": self.words})

    @property
    def detail(self) -> str:
        """How many words."""
        return f"{self.words} common words"

    def bytes_written(self, sizes: "Sizes", units: Mapping[str, Unit]) -> int:
        """One square of the encoded prompt's width."""
        return sizes.second_moments(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RewordUnit(Unit):
    """Edit keys and values, once for all concepts: a delta."""

    title = "Rewordings"
    warm = True

    erased: tuple[str, ...]
    """Names of the concepts, which the delta must bear."""
    shifts: tuple[str, ...]
    """Key of each concept's `ShiftUnit`."""
    retained: tuple[str, ...]
    """Keys of the `MomentsUnit` of each retained concept's prompts."""
    bases: tuple[str, ...]
    """The same of the base prompts: one for each set of them."""
    empty: str
    """The same of the empty prompt."""
    vocabulary: str | None
    """Key of the `VocabularyUnit`; None where the settings leave it out."""
    settings: Reword
    provenance: Mapping[str, Any] = field(hash=False)
    """What the delta records besides the settings."""

    @property
    def key(self) -> str:
        """Identity: the sums in their order, and all that the delta's file says."""
        return unit_key(
            {
                "kind": "reword",
                "erased": list(self.erased),
                "shifts": list(self.shifts),
                "retained": list(self.retained),
                "bases": list(self.bases),
                "empty": self.empty,
                "vocabulary": self.vocabulary,
                "settings": self.settings.key_parts,
                "provenance": self.provenance,
            }
        )

    @property
    def needs(self) -> tuple[Need, ...]:
        """All sums."""
        stays = dict.fromkeys((*self.retained, *self.bases, self.empty))
        return (
            *((ShiftUnit.kind, key) for key in self.shifts),
            *((MomentsUnit.kind, key) for key in stays),
            *([(VocabularyUnit.kind, self.vocabulary)] if self.vocabulary else ()),
        )

    @property
    def detail(self) -> str:
        """How many concepts."""
        return f"{len(self.erased)} concepts together"

    @property
    def mask_key(self) -> str:
        """Its own key."""
        return self.key

    def bytes_written(self, sizes: "Sizes", units: Mapping[str, Unit]) -> int:
        """All keys and values."""
        return sizes.prompt_delta()


def text_model(model: ModelSettings) -> dict[str, str]:
    """What of a model decides how a text is encoded."""
    return {"model": model.identity, "dtype": model.dtype}
