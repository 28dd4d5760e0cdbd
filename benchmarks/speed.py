"""Wall time per concept, against the published procedure on the same model in the same run."""

import time
from dataclasses import dataclass

import torch

from benchmarks import published_procedure
from benchmarks.library import SEED, ErasedConcept, erase_concepts
from benchmarks.models import CONCEPTS, Subject, compute_bound, minimal, studio
from benchmarks.published_procedure import Pair
from benchmarks.results import Measurement
from conceptprune.manifest import Collection
from pipelines.scheduling.heap import keep_freed_memory

PAPER_PROMPTS = 20
MAX_DIFFERING = 0.001
"""Fraction of a mask that float32 rounding may decide differently at other batch sizes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Seconds per concept."""

    collect: float
    select: float

    @property
    def total(self) -> float:
        return self.collect + self.select

    def scaled(self, factor: float) -> float:
        """Total for `factor` times as many prompts: only collection grows with them."""
        return self.collect * factor + self.select


def run_studio() -> list[Measurement]:
    """All prompts and ten concepts, both ways, in a process that keeps what it frees.

    A job's actors do, too; the published procedure, run here as well, has what it gains from it.
    """
    keep_freed_memory()
    return compare(studio(), num_published=len(CONCEPTS), batch_size=12, at_least=25)


def run_compute_bound() -> list[Measurement]:
    """Ten concepts of four prompts; one of them, by the published procedure, takes minutes."""
    return compare(compute_bound(), num_published=1, batch_size=4, at_least=12)


def run_minimal() -> list[Measurement]:
    """Two concepts on the smallest model, to see that it runs."""
    return compare(minimal(), num_concepts=2, num_published=1, batch_size=2, steps=3, tau=2)


def compare(
    subject: Subject,
    *,
    num_concepts: int = len(CONCEPTS),
    num_published: int,
    batch_size: int,
    steps: int = 50,
    tau: int = 10,
    sparsity: float = 0.01,
    at_least: float | None = None,
) -> list[Measurement]:
    """Erase `num_concepts` with the library and `num_published` of them as published."""
    concepts = CONCEPTS[:num_concepts]
    collection = Collection(steps=steps, tau=tau, batch_size=batch_size)
    started = time.perf_counter()
    erased = list(erase_concepts(subject, concepts, collection, sparsity=sparsity))
    seconds = (time.perf_counter() - started) / num_concepts
    select = sum(concept.select_seconds for concept in erased) / num_concepts
    ours = Cost(collect=seconds - select, select=select)

    collect_seconds = select_seconds = 0.0
    num_differing = num_entries = 0
    for name, concept in zip(concepts[:num_published], erased, strict=False):
        texts = zip(subject.base_prompts, subject.target_prompts(name), strict=True)
        pairs = [Pair(base=base, target=target, seed=SEED) for base, target in texts]
        started = time.perf_counter()
        norms = published_procedure.collect_norms(
            subject.pipe, pairs, steps=steps, guidance=collection.guidance
        )
        collected = time.perf_counter()
        masks = published_procedure.skilled_weights(
            subject.pipe, *norms, sparsity=sparsity, tau=tau
        )
        collect_seconds += collected - started
        select_seconds += time.perf_counter() - collected
        num_differing += _count_differing(masks, concept)
        num_entries += sum(int(mask.sum()) for mask in masks.values())
    published = Cost(collect=collect_seconds / num_published, select=select_seconds / num_published)

    scale = PAPER_PROMPTS / len(subject.things)
    size = f"{num_concepts} concepts x {len(subject.things)} prompts"
    timed = "" if num_published == num_concepts else f"timed on {num_published} of {num_concepts}"
    return [
        _seconds("library, per concept", ours, size),
        _seconds("published procedure, per concept", published, timed),
        Measurement(
            what="speed-up", value=published.total / ours.total, unit="x", at_least=at_least
        ),
        Measurement(
            what=f"speed-up at {PAPER_PROMPTS} prompts",
            value=published.scaled(scale) / ours.scaled(scale),
            unit="x",
            note="computed: both collections scaled linearly",
        ),
        Measurement(
            what="mask entries that differ",
            value=100 * num_differing / num_entries,
            unit="%",
            at_most=100 * MAX_DIFFERING,
            note=f"{num_differing} of {num_entries}",
        ),
    ]


def _seconds(what: str, cost: Cost, note: str) -> Measurement:
    parts = f"collect {cost.collect:.2f}, select {cost.select:.2f}"
    return Measurement(
        what=what, value=cost.total, unit="s", note=f"{parts}; {note}" if note else parts
    )


def _count_differing(masks: dict[str, torch.Tensor], concept: ErasedConcept) -> int:
    count = 0
    for name, mask in masks.items():
        ours = torch.zeros(mask.numel(), dtype=torch.bool)
        ours[concept.entries[name]] = True
        count += int((ours ^ mask.flatten()).sum())
    return count
