"""The library at the same work as the published procedure: concepts that share base prompts."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.models import Subject
from conceptprune.collection.collect import CollectionSettings, collect
from conceptprune.masks.select_conceptprune import Energy, SelectionSettings, select_entries
from conceptprune.models.prompt import Prompt
from conceptprune.models.stable_diffusion import StableDiffusion

SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class ErasedConcept:
    """A concept's mask and what it took to make."""

    entries: dict[str, NDArray[np.int64]]
    """By layer: sorted flat indices of the pruned weights."""
    select_seconds: float


def erase_concepts(
    subject: Subject,
    concepts: Sequence[str],
    collection: CollectionSettings,
    selection: SelectionSettings,
) -> Iterator[ErasedConcept]:
    """Collect the base once, then each concept's target; masks come one by one."""
    model = StableDiffusion.from_pipeline(subject.pipe)
    linears = model.metered(collection.sites)
    weights = {name: metered.linear.weight.detach() for name, metered in linears.items()}
    base = energy(model, subject.base_prompts, collection)
    for concept in concepts:
        target = energy(model, subject.target_prompts(concept), collection)
        started = time.perf_counter()
        entries = select_entries(weights, target, base, selection)
        yield ErasedConcept(entries=entries, select_seconds=time.perf_counter() - started)


def energy(model: StableDiffusion, texts: Sequence[str], settings: CollectionSettings) -> Energy:
    """Collected sums of squares for `texts`, all drawn from the same noise."""
    return collect(model, as_prompts(texts), settings).energy()


def as_prompts(texts: Sequence[str]) -> list[Prompt]:
    """The published procedure starts every prompt from the same noise."""
    return [Prompt(text=text, seed=SEED) for text in texts]
