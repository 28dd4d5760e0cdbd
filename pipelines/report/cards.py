"""A report's results for a checkpoint, in the form of its model card."""

from collections.abc import Callable, Sequence

from conceptprune.checkpoints.card import Estimate, Evaluation, Measurement, Share
from conceptprune.store import Store

from .accuracy import Accuracy, Measure, Rate
from .evaluations import GROUPS, Score, read_evaluations


def measurements(accuracy: Accuracy | None) -> Sequence[Measurement]:
    """Measurements on the run's own images, if it generated and scored some."""
    return [_measurement(measure) for measure in accuracy.detail] if accuracy else ()


def evaluated_edits(store: Store) -> Callable[[str], Sequence[Evaluation]]:
    """By the digest of a mask or a delta, its numbers for its model card: those of whole groups,
    next to the base model's.

    Raises:
        StoreError: a summary is damaged, or of another version.
    """
    scores = [score for score in read_evaluations(store).scores if score.group in GROUPS]
    base = {score.place: _estimate(score) for score in scores if score.checkpoint.source == "base"}

    def of(digest: str) -> Sequence[Evaluation]:
        found = {
            score.place: Evaluation(
                suite=score.suite,
                group=score.group,
                scorer=score.scorer,
                metric=score.metric,
                better=score.better,
                base=base.get(score.place),
                checkpoint=estimate,
            )
            for score in scores
            if score.checkpoint.digest == digest and (estimate := _estimate(score))
        }
        return tuple(found.values())

    return of


def _estimate(score: Score) -> Estimate | None:
    if score.value is None:
        return None
    return Estimate(value=score.value, low=score.low, high=score.high, n=score.n)


def _measurement(measure: Measure) -> Measurement:
    def share(rate: Rate | None) -> Share | None:
        if rate is None:
            return None
        low, high = rate.interval
        return Share(value=rate.share, low=low, high=high, n=rate.n)

    return Measurement(
        label=measure.question.label,
        prompts=measure.question.prompts,
        want=measure.question.want,
        before=share(measure.before),
        after=share(measure.after),
    )
