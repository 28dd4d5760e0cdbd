"""What scorers recognised before and after, as rates with 95 % Wilson intervals."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from conceptprune.evaluation.bootstrap import wilson
from conceptprune.evaluation.scorers.base import Domain

from ..records.recognised import ScorerMetric
from .image_pairs import ImagePair, Role, SeenImage


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """Hits among `n` images, treated as independent."""

    hits: int
    n: int

    @property
    def share(self) -> float:
        """The observed rate."""
        return self.hits / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's score interval at 95 %; unlike the simple interval, it also holds at 0 and 1."""
        return wilson(self.hits, self.n)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question about what scorers saw."""

    label: str
    prompts: str
    """Which prompts, in words."""
    domain: Domain | None
    """The accuracy's domain; None for a metric that is not an accuracy."""
    roles: tuple[Role, ...]
    want: Literal["low", "high"] = "high"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """The answer to a question; a rate is None if it has no images."""

    question: Question
    before: Rate | None
    after: Rate | None


ARTIST_OWN = Question(
    label="Erased artist recognised",
    prompts="own prompts",
    domain="style",
    roles=("own",),
    want="low",
)
ARTIST_OTHERS = Question(
    label="Other artists recognised",
    prompts="retained prompts",
    domain="style",
    roles=("retained",),
)
ERASED_THING = Question(
    label="Erased thing recognised",
    prompts="own prompts",
    domain="object",
    roles=("own",),
    want="low",
)
THING_OWN = Question(
    label="Thing recognised", prompts="own prompts", domain="object", roles=("own",)
)
THING_RETAINED = Question(
    label="Thing recognised", prompts="retained prompts", domain="object", roles=("retained",)
)
THING_PHOTO = Question(
    label="Thing recognised", prompts="photo prompts", domain="object", roles=("photo",)
)
PHOTO_STYLE = Question(
    label="Photos still photos", prompts="photo prompts", domain="style", roles=("photo",)
)
THINGS = Question(
    label="Things recognised",
    prompts="all prompts",
    domain="object",
    roles=("own", "retained", "photo"),
)
OTHER_THINGS = Question(
    label="Other things recognised",
    prompts="retained and photo prompts",
    domain="object",
    roles=("retained", "photo"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """The questions about a concept: for its row of the overview, and in detail."""

    erased: Question
    retained: Question
    things: Question
    detail: tuple[Question, ...]


OF_ARTISTS = Questions(
    erased=ARTIST_OWN,
    retained=ARTIST_OTHERS,
    things=THINGS,
    detail=(ARTIST_OWN, ARTIST_OTHERS, THING_OWN, THING_RETAINED, THING_PHOTO, PHOTO_STYLE),
)
OF_OBJECTS = Questions(
    erased=ERASED_THING,
    retained=OTHER_THINGS,
    things=OTHER_THINGS,
    detail=(ERASED_THING, ARTIST_OTHERS, THING_RETAINED, THING_PHOTO, PHOTO_STYLE),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """All scorers' results for one erased concept.

    If several scorers share a domain, the first is used where only one number fits.
    """

    erased: Measure
    retained: Measure
    """The measure for everything that should stay, where only one number fits."""
    others: Measure
    things: Measure
    photos: Measure
    detail: tuple[Measure, ...]
    """Measures with at least one image."""


def judge_pairs(image_pairs: Sequence[ImagePair], *, kind: str) -> Accuracy | None:
    """The answers for a concept of that kind; None if no scorer scored an image."""
    questions = OF_OBJECTS if kind == "object" else OF_ARTISTS
    by_domain: dict[Domain | None, list[ScorerMetric]] = {}
    for metric in metrics_in(image_pairs):
        if metric.how.is_share:
            by_domain.setdefault(metric.how.domain, []).append(metric)

    def first(question: Question) -> Measure:
        metrics = by_domain.get(question.domain, [])
        return _measure(question, metrics[0] if metrics else None, image_pairs)

    detail = [first(question) for question in questions.detail]
    detail += [
        _measure(
            replace(question, label=f"{question.label}, by {metric.scorer}"), metric, image_pairs
        )
        for question in questions.detail
        for metric in by_domain.get(question.domain, [])[1:]
    ]
    others = [
        _measure(question, metric, image_pairs)
        for metric in by_domain.get(None, [])
        for question in _about(metric)
    ]
    detail = [measure for measure in (*detail, *others) if measure.before or measure.after]
    if not detail:
        return None
    erased = first(questions.erased)
    if not (erased.before or erased.after):
        # A concept that is neither a style nor a thing, such as nudity.
        erased = next((measure for measure in others if "own" in measure.question.roles), erased)
    return Accuracy(
        erased=erased,
        retained=first(questions.retained),
        others=first(ARTIST_OTHERS),
        things=first(questions.things),
        photos=first(PHOTO_STYLE),
        detail=tuple(detail),
    )


def still_seen(image_pair: ImagePair, kind: str) -> bool:
    """Whether a scorer still sees a concept of that kind in an image made with its mask."""
    question = (OF_OBJECTS if kind == "object" else OF_ARTISTS).erased
    if image_pair.role != "own" or image_pair.after is None:
        return False
    return any(
        bool(each.value and each.value > 0)
        and each.by.how.is_share
        and (each.by.how.domain == question.domain or each.by.how.erased == "lower")
        for each in image_pair.after.seen
    )


def metrics_in(image_pairs: Iterable[ImagePair]) -> tuple[ScorerMetric, ...]:
    """The metrics that scorers have for any of the images, in the order of the scorers."""
    images = (
        image
        for image_pair in image_pairs
        for image in (image_pair.before, image_pair.after)
        if image
    )
    return tuple(dict.fromkeys(each.by for image in images for each in image.seen))


def _about(metric: ScorerMetric) -> list[Question]:
    """The questions for a share that is not an accuracy, one per group of prompts."""
    asked: list[tuple[str, Role, str]] = [
        ("own prompts", "own", metric.how.erased),
        ("retained prompts", "retained", metric.how.kept),
        ("photo prompts", "photo", metric.how.kept),
    ]
    return [
        Question(
            label=f"{metric.metric}, by {metric.scorer}",
            prompts=prompts,
            domain=None,
            roles=(role,),
            want="low" if better == "lower" else "high",
        )
        for prompts, role, better in asked
        if better
    ]


def _measure(
    question: Question, metric: ScorerMetric | None, image_pairs: Sequence[ImagePair]
) -> Measure:
    asked = [image_pair for image_pair in image_pairs if image_pair.role in question.roles]
    return Measure(
        question=question,
        before=_rate(metric, (image_pair.before for image_pair in asked)),
        after=_rate(metric, (image_pair.after for image_pair in asked)),
    )


def _rate(metric: ScorerMetric | None, images: Iterable[SeenImage | None]) -> Rate | None:
    known = [
        each.value > 0
        for image in images
        if image
        for each in image.seen
        if each.by == metric and each.value is not None
    ]
    return Rate(hits=sum(known), n=len(known)) if known else None
