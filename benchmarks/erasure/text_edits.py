"""UCE and RECE on the studio model: the settings compared, and the tensors each makes."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from torch import Tensor

from benchmarks.erasure.masks import artist_prompt, photo_prompt
from conceptprune.baselines.rece import AGAIN, ReceSettings, gram_of, rece_map
from conceptprune.baselines.texts import PHRASES, encoded
from conceptprune.baselines.uce import Edit, UceSettings, uce_map
from conceptprune.edits.projections import edited, prompt_projections
from conceptprune.models.stable_diffusion import StableDiffusion
from conceptprune.models.weights import read_weights
from conceptprune.studio import model_path
from conceptprune.studio.names import THINGS

Texts = Literal["name", "phrases", "prompts"]
"""Which texts of an artist are erased: the name; the name and the published phrases; or exactly the
prompts that ConceptPrune uses, each in favour of the photo of the same thing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TextEdit:
    """A setting of UCE or RECE."""

    settings: UceSettings | ReceSettings
    guide: str
    texts: Texts = "name"

    @property
    def method(self) -> str:
        return "rece" if isinstance(self.settings, ReceSettings) else "uce"

    def as_json(self) -> dict[str, Any]:
        return {"settings": asdict(self.settings), "guide": self.guide, "texts": self.texts}


OLD = UceSettings(tokens="rest", preserve_scale=0.1)


def gentle_rece(lamb: float) -> ReceSettings:
    """One epoch, with the penalty `lamb` on changes to weights."""
    return ReceSettings(first=replace(OLD, lamb=lamb), again=replace(AGAIN, lamb=lamb), epochs=1)


UCE_PUBLISHED = TextEdit(settings=UceSettings(), guide="art")
RECE_PUBLISHED = TextEdit(settings=ReceSettings(), guide="art")
UCE_CANDIDATES = (
    UCE_PUBLISHED,
    TextEdit(settings=OLD, guide=" "),
    TextEdit(settings=replace(OLD, lamb=5.0), guide=" "),
    TextEdit(settings=UceSettings(), guide="photo"),
    TextEdit(settings=OLD, guide="photo"),
    TextEdit(settings=replace(OLD, preserve_scale=1.0), guide="photo"),
    TextEdit(settings=replace(OLD, lamb=0.05), guide="photo"),
    TextEdit(settings=replace(OLD, lamb=5.0), guide="photo"),
    TextEdit(settings=replace(OLD, lamb=50.0), guide="photo"),
    TextEdit(settings=replace(OLD, lamb=200.0), guide="photo"),
    TextEdit(settings=replace(OLD, lamb=800.0), guide="photo"),
    TextEdit(settings=replace(OLD, lamb=3000.0), guide="photo"),
    TextEdit(settings=replace(OLD, lamb=12000.0), guide="photo"),
    TextEdit(settings=replace(OLD, lamb=50.0, preserve_scale=1.0), guide="photo"),
    TextEdit(settings=OLD, guide="photo", texts="phrases"),
    TextEdit(settings=OLD, guide="photo", texts="prompts"),
    TextEdit(settings=replace(OLD, preserve_scale=1.0), guide="photo", texts="prompts"),
)
"""Published settings, of the current and the earlier script, and variations of them."""
RECE_CANDIDATES = (
    RECE_PUBLISHED,
    TextEdit(settings=ReceSettings(epochs=10), guide=" "),
    TextEdit(settings=ReceSettings(epochs=1), guide=" "),
    TextEdit(settings=gentle_rece(50.0), guide=" "),
    TextEdit(settings=gentle_rece(800.0), guide=" "),
    TextEdit(settings=ReceSettings(epochs=1), guide="photo"),
    TextEdit(settings=ReceSettings(epochs=3), guide="photo"),
    TextEdit(settings=ReceSettings(epochs=1, regularisation=0.1), guide="photo"),
    TextEdit(settings=ReceSettings(epochs=1), guide="photo", texts="prompts"),
)


class TextEditor:
    """Makes the edited projections from those in the model's files."""

    def __init__(self, model: StableDiffusion) -> None:
        self.model = model
        names = prompt_projections(model)
        self.weights = read_weights(model_path() / model.component, names)

    def tensors(
        self, edit: TextEdit, artists: Sequence[str], retained: Sequence[str]
    ) -> dict[str, Tensor]:
        """Edited tensors by parameter name, with `artists` erased and `retained` preserved."""
        edits = [
            Edit(erased=encoded(self.model, text), guide=encoded(self.model, guide))
            for artist in artists
            for text, guide in _pairs(artist, edit)
        ]
        if isinstance(edit.settings, ReceSettings):
            preserved = [encoded(self.model, name) for name in ("", *retained)]
            gram = gram_of(list(self.weights.values()))
            change = rece_map(edits, preserved, gram, edit.settings)
        else:
            preserved = [encoded(self.model, name) for name in retained]
            change = uce_map(edits, preserved, edit.settings)
        return {f"{name}.weight": tensor for name, tensor in edited(self.weights, change).items()}


def _pairs(artist: str, edit: TextEdit) -> list[tuple[str, str]]:
    match edit.texts:
        case "name":
            return [(artist, edit.guide)]
        case "phrases":
            phrases = [phrase.format(artist) for phrase in PHRASES["style"]]
            return [(text, edit.guide) for text in (artist, *phrases)]
        case "prompts":
            return [(artist_prompt(thing, artist), photo_prompt(thing)) for thing in THINGS]
