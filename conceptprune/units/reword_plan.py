"""The units that reword concepts, for a plan."""

from collections.abc import Mapping, Sequence

from conceptprune.manifest import Manifest, concept_key
from conceptprune.manifest.model_settings import ModelSettings
from conceptprune.prompts.pairs import PromptPair
from conceptprune.units.reword_units import MomentsUnit, RewordUnit, ShiftUnit, text_model
from conceptprune.units.unit import Unit
from conceptprune.versions import versions


def shift_unit(concept: str, pairs: Sequence[PromptPair], model: ModelSettings) -> ShiftUnit:
    """The sums of one concept; equal texts count once."""
    texts = dict.fromkeys((pair.base.text, pair.target.text) for pair in pairs)
    return ShiftUnit(concept=concept, pairs=tuple(texts), model=text_model(model))


def reword_units(
    manifest: Manifest,
    model: ModelSettings,
    pairs: Mapping[str, tuple[PromptPair, ...]],
    erased: Sequence[str],
) -> tuple[RewordUnit, list[Unit]]:
    """The edit of the `erased` concepts, by name, and all units that it needs.

    What stays are the retained concepts that the manifest does not erase (also where one of its
    concepts is not among `erased`, because it failed), and every concept's base prompts.

    Raises:
        ValueError: the manifest asks for another method.
    """
    settings = manifest.rewording
    if settings is None:
        raise ValueError(f"method {manifest.method} rewords nothing")
    texts = text_model(model)
    names = {concept_key(concept.name) for concept in manifest.concepts}
    spared = [other for other in manifest.retain if concept_key(other.name) not in names]
    shifts = [shift_unit(name, pairs[name], model) for name in erased]

    def stays(*of: str) -> MomentsUnit:
        return MomentsUnit(texts=tuple(dict.fromkeys(of)), model=texts)

    retained = [stays(*(pair.target.text for pair in pairs[other.name])) for other in spared]
    bases = {
        unit.key: unit
        for unit in (stays(*(pair.base.text for pair in pairs[name])) for name in erased)
    }
    empty = stays("")
    edit = RewordUnit(
        erased=tuple(erased),
        shifts=tuple(unit.key for unit in shifts),
        retained=tuple(unit.key for unit in retained),
        bases=tuple(bases),
        empty=empty.key,
        settings=settings,
        provenance={
            "model": model.source.label,
            "revision": model.source.hub_revision,
            "model_digest": model.identity,
            "dtype": model.dtype,
            "retained": [other.name for other in spared],
            "versions": versions(),
        },
    )
    return edit, [*shifts, *retained, *bases.values(), empty, edit]
