"""The library doing the published procedure's work: concepts that share base prompts."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.models import Subject
from conceptprune import Collection, Evidence, Prompt, collect, named_selector, select
from conceptprune.models.borrowed import borrowed

SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class ErasedConcept:
    """A concept's mask and what it took to make."""

    entries: dict[str, NDArray[np.int64]]
    """By layer: sorted flat indices of the pruned weights."""
    select_seconds: float


def erase_concepts(
    subject: Subject, concepts: Sequence[str], collection: Collection, *, sparsity: float
) -> Iterator[ErasedConcept]:
    """Collect the base once, then each concept's target; masks come one by one.

    The pipeline is borrowed once for all of them, as a job's worker has its model.
    """
    selector = named_selector("conceptprune", sparsity=sparsity)
    with borrowed(subject.pipe) as model:
        base = collect(model, as_prompts(subject.base_prompts), collection)
        for concept in concepts:
            target = collect(model, as_prompts(subject.target_prompts(concept)), collection)
            started = time.perf_counter()
            mask = select(model, Evidence(target=target, base=base), selector, concept=concept)
            yield ErasedConcept(
                entries={name: layer.entries for name, layer in mask.layers.items()},
                select_seconds=time.perf_counter() - started,
            )


def as_prompts(texts: Sequence[str]) -> list[Prompt]:
    """The published procedure starts every prompt from the same noise."""
    return [Prompt(text=text, seed=SEED) for text in texts]
