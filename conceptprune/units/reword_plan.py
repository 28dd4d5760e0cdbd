"""The units that reword concepts, for a plan."""

from collections.abc import Mapping, Sequence

from conceptprune.manifest import Concept, Manifest, Reword, concept_key
from conceptprune.manifest.model_settings import ModelSettings
from conceptprune.prompts.pairs import PromptPair, base_template, prompt_pairs
from conceptprune.prompts.vocabulary import words_of
from conceptprune.units.reword_units import (
    MomentsUnit,
    RewordUnit,
    ShiftUnit,
    VocabularyUnit,
    text_model,
)
from conceptprune.units.unit import Unit
from conceptprune.versions import versions

Texts = tuple[tuple[str, str], ...]
"""Of each prompt pair, the base and the target."""


def texts_of(concept: Concept, pairs: Sequence[PromptPair], settings: Reword) -> Texts:
    """A concept's texts: of its prompt pairs, and of its template with the settings' own fillers
    and templates.

    Equal texts count once.
    """
    found = list(pairs)
    if concept.prompts is None:
        more = dict(settings.fillers).get(concept.kind)
        with_fillers = [concept, *([concept.model_copy(update={"fillers": more})] if more else [])]
        given = dict(settings.templates).get(concept.kind) or ()
        templates = (concept.template, *given)
        variants = [
            each.model_copy(update={"template": template})
            for template in templates
            for each in with_fillers
        ]
        # The first is the concept as it is, whose pairs are there.
        for variant in variants[1:]:
            found += prompt_pairs(variant, seed=0)
    return tuple(dict.fromkeys((pair.base.text, pair.target.text) for pair in found))


def reword_units(
    manifest: Manifest,
    model: ModelSettings,
    pairs: Mapping[str, tuple[PromptPair, ...]],
    erased: Sequence[str],
) -> tuple[RewordUnit, list[Unit]]:
    """The edit of the `erased` concepts, by name, and all units that it needs.

    What stays are the retained concepts that the manifest does not erase (also where one of its
    concepts is not among `erased`, because it failed), every concept's base prompts, and these with
    common words as fillers.

    Raises:
        ValueError: the manifest asks for another method.
    """
    settings = manifest.rewording
    if settings is None:
        raise ValueError(f"method {manifest.method} rewords nothing")
    texts = text_model(model)
    concepts = {concept.name: concept for concept in manifest.concepts}
    names = {concept_key(name) for name in concepts}
    spared = [other for other in manifest.retain if concept_key(other.name) not in names]
    own = {
        each.name: texts_of(each, pairs[each.name], settings)
        for each in (*(concepts[name] for name in erased), *spared)
    }
    shifts = [ShiftUnit(concept=name, pairs=own[name], model=texts) for name in erased]

    def stays(*of: str) -> MomentsUnit:
        return MomentsUnit(texts=tuple(dict.fromkeys(of)), model=texts)

    retained = [stays(*(target for _, target in own[other.name])) for other in spared]
    bases = {
        unit.key: unit for unit in (stays(*(base for base, _ in own[name])) for name in erased)
    }
    empty = stays("")
    vocabulary = VocabularyUnit(
        templates=tuple(dict.fromkeys(base_template(concepts[name]) for name in erased)),
        words=settings.words,
        without=tuple(sorted(set().union(*(_own_words(name, own[name]) for name in erased)))),
        model=texts,
    )
    common = [vocabulary] if settings.words else []
    edit = RewordUnit(
        erased=tuple(erased),
        shifts=tuple(unit.key for unit in shifts),
        retained=tuple(unit.key for unit in retained),
        bases=tuple(bases),
        empty=empty.key,
        vocabulary=vocabulary.key if common else None,
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
    return edit, [*shifts, *retained, *bases.values(), empty, *common, edit]


def _own_words(name: str, texts: Texts) -> frozenset[str]:
    """Words of a concept's name and of its target prompts that none of its base prompts has."""
    targets = words_of(target for _, target in texts)
    return words_of([name]) | (targets - words_of(base for base, _ in texts))
