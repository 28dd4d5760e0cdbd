"""Collection's peak memory: it must not grow with the number of prompts or of concepts."""

from benchmarks.library import as_prompts, erase_concepts
from benchmarks.models import CONCEPTS, Subject
from benchmarks.process import PeakMemory, in_own_lean_process
from benchmarks.results import Measurement
from conceptprune.collection.collect import collect
from conceptprune.manifest import Collection
from conceptprune.models.stable_diffusion import StableDiffusion
from conceptprune.studio.names import THINGS
from tests.support.sd15_shaped import build_pipeline

# Half of SD 1.5's widths at small latents: statistics and weights outweigh activations.
WIDE = (160, 320, 640, 640)
SMALL = (32, 64, 64, 64)
BATCH_SIZE = 2
SETTLED_BATCHES = 4
"""From the second batch on, a running sum and its successor are held besides the new batch's
statistics. This step comes only once, so growth is measured from a point after it."""
MAX_GROWTH = 4
"""MiB: as much as the statistics of a single batch. Keeping every batch's would take 48."""
MAX_CONCEPTS_GROWTH = 8
"""MiB: a concept's statistics and entries are freed only when the next concept's exist."""


def run() -> list[Measurement]:
    """From few batches to sixteen, and from one concept to six."""
    return [*prompts(num_prompts=32, tau=10), *concepts(num_concepts=6, tau=10)]


def run_minimal() -> list[Measurement]:
    """One batch on a small model, in this process, to see that it runs."""
    value = collection_peak(SMALL, num_prompts=BATCH_SIZE, tau=1)
    return [Measurement(what="peak above the model", value=value, unit="MiB")]


def prompts(*, num_prompts: int, tau: int) -> list[Measurement]:
    """Collection alone: one batch, a few, then many."""
    one = in_own_lean_process(collection_peak, WIDE, num_prompts=BATCH_SIZE, tau=tau)
    few = in_own_lean_process(
        collection_peak, WIDE, num_prompts=SETTLED_BATCHES * BATCH_SIZE, tau=tau
    )
    many = in_own_lean_process(collection_peak, WIDE, num_prompts=num_prompts, tau=tau)
    return [
        Measurement(
            what="collection of one batch: peak above the model",
            value=one,
            unit="MiB",
            note=f"{BATCH_SIZE} prompts a batch, {tau} calls",
        ),
        Measurement(
            what=f"collection of {SETTLED_BATCHES} batches: peak above the model",
            value=few,
            unit="MiB",
            note="holds a running sum, which one batch does not need",
        ),
        Measurement(
            what=f"growth from {SETTLED_BATCHES} to {num_prompts // BATCH_SIZE} batches",
            value=many - few,
            unit="MiB",
            at_most=MAX_GROWTH,
        ),
    ]


def concepts(*, num_concepts: int, tau: int) -> list[Measurement]:
    """Collection and selection: one concept, then many."""
    one = in_own_lean_process(erasure_peak, WIDE, num_concepts=1, tau=tau)
    many = in_own_lean_process(erasure_peak, WIDE, num_concepts=num_concepts, tau=tau)
    return [
        Measurement(
            what="collection and selection of one concept: peak above the model",
            value=one,
            unit="MiB",
        ),
        Measurement(
            what=f"growth with {num_concepts} concepts",
            value=many - one,
            unit="MiB",
            at_most=MAX_CONCEPTS_GROWTH,
        ),
    ]


def collection_peak(channels: tuple[int, int, int, int], *, num_prompts: int, tau: int) -> float:
    """MiB above the loaded model while one side is collected."""
    subject = _subject(channels, num_prompts)
    texts = as_prompts(subject.base_prompts)
    model = StableDiffusion.from_pipeline(subject.pipe)
    memory = PeakMemory()
    collect(model, texts, Collection(tau=tau, batch_size=BATCH_SIZE))
    return memory.mib()


def erasure_peak(channels: tuple[int, int, int, int], *, num_concepts: int, tau: int) -> float:
    """MiB above the loaded model while masks are made one after the other."""
    subject = _subject(channels, BATCH_SIZE)
    collection = Collection(tau=tau, batch_size=BATCH_SIZE)
    memory = PeakMemory()
    for _ in erase_concepts(subject, CONCEPTS[:num_concepts], collection, sparsity=0.01):
        pass
    return memory.mib()


def _subject(channels: tuple[int, int, int, int], num_prompts: int) -> Subject:
    things = tuple(f"{THINGS[index % len(THINGS)]} {index}" for index in range(num_prompts))
    pipe = build_pipeline(channels=channels, latent_size=8)
    return Subject(name="wide", pipe=pipe, things=things)
