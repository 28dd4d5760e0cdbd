"""The units that make a run's prompts: planned first, as all other units depend on the prompts."""

from conceptprune.manifest import Concept, Manifest
from conceptprune.prompts.fillers import asks_generator
from conceptprune.units.units import AnyPromptsUnit, GeneratedPromptsUnit, PromptsUnit

CONCEPTS_PER_PROMPTS_UNIT = 32


def concepts_in(unit: AnyPromptsUnit) -> tuple[Concept, ...]:
    """The concepts for which a unit makes prompts."""
    return unit.concepts if isinstance(unit, PromptsUnit) else (unit.concept,)


def prompts_units(manifest: Manifest, language_model: str | None = None) -> list[AnyPromptsUnit]:
    """The units that make the prompts of all erased and retained concepts.

    `language_model` is the digest of the manifest's language model for fillers, if any.
    """
    seed = manifest.collection.seed
    concepts = (*manifest.concepts, *manifest.retain)
    generated: tuple[Concept, ...] = ()
    generator = manifest.prompts.generator
    units: list[AnyPromptsUnit] = []
    if generator is not None:
        if language_model is None:
            raise ValueError("the language model of prompts.generator has not been identified")
        generated = tuple(concept for concept in concepts if asks_generator(concept))
        concepts = tuple(concept for concept in concepts if not asks_generator(concept))
        # A concept that is both erased and retained gets its fillers once.
        by_key = {
            unit.key: unit
            for unit in (
                GeneratedPromptsUnit(
                    concept=concept, seed=seed, generator=generator, language_model=language_model
                )
                for concept in generated
            )
        }
        units += by_key.values()
    size = CONCEPTS_PER_PROMPTS_UNIT
    units += [
        PromptsUnit(concepts=concepts[first : first + size], seed=seed)
        for first in range(0, len(concepts), size)
    ]
    return units
