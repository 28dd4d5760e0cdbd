"""What the judge recognised before and after, as rates with 95 % Wilson intervals."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from conceptprune.evaluation.bootstrap import wilson
from conceptprune.studio.names import PHOTO

from .shots import Drawn, Role, Shot


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """Hits among `n` images, taken as independent draws."""

    hits: int
    n: int

    @property
    def share(self) -> float:
        """The observed rate."""
        return self.hits / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's score interval at 95 %; unlike the simple one, right at 0 and 1 as well."""
        return wilson(self.hits, self.n)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One thing to ask of the judge's verdicts."""

    label: str
    prompts: str
    """Which prompts, in words."""
    about: Literal["thing", "artist", "photo"]
    roles: tuple[Role, ...]
    want: Literal["low", "high"] = "high"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """The answer to a question; a rate is None where no image could be asked."""

    question: Question
    before: Rate | None
    after: Rate | None


ARTIST_OWN = Question(
    label="Erased artist recognised",
    prompts="own prompts",
    about="artist",
    roles=("own",),
    want="low",
)
ARTIST_OTHERS = Question(
    label="Other artists recognised",
    prompts="retained prompts",
    about="artist",
    roles=("retained",),
)
ERASED_THING = Question(
    label="Erased thing recognised",
    prompts="own prompts",
    about="thing",
    roles=("own",),
    want="low",
)
THING_OWN = Question(label="Thing recognised", prompts="own prompts", about="thing", roles=("own",))
THING_RETAINED = Question(
    label="Thing recognised", prompts="retained prompts", about="thing", roles=("retained",)
)
THING_PHOTO = Question(
    label="Thing recognised", prompts="photo prompts", about="thing", roles=("photo",)
)
PHOTO_STYLE = Question(
    label="Photos still photos", prompts="photo prompts", about="photo", roles=("photo",)
)
THINGS = Question(
    label="Things recognised",
    prompts="all prompts",
    about="thing",
    roles=("own", "retained", "photo"),
)
OTHER_THINGS = Question(
    label="Other things recognised",
    prompts="retained and photo prompts",
    about="thing",
    roles=("retained", "photo"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """What to ask about a concept: one row of the overview, and in detail."""

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
    """All that the judge says about one erased concept."""

    erased: Measure
    retained: Measure
    """What stands for everything that is to stay, where one number must."""
    others: Measure
    things: Measure
    photos: Measure
    detail: tuple[Measure, ...]
    """Only measures with at least one image."""


def judge_shots(shots: Sequence[Shot], *, kind: str) -> Accuracy | None:
    """The answers for a concept of that kind; None where no image was judged."""
    questions = OF_OBJECTS if kind == "object" else OF_ARTISTS
    detail = tuple(
        measure
        for measure in (_measure(question, shots) for question in questions.detail)
        if measure.before or measure.after
    )
    if not detail:
        return None
    return Accuracy(
        erased=_measure(questions.erased, shots),
        retained=_measure(questions.retained, shots),
        others=_measure(ARTIST_OTHERS, shots),
        things=_measure(questions.things, shots),
        photos=_measure(PHOTO_STYLE, shots),
        detail=detail,
    )


def _measure(question: Question, shots: Sequence[Shot]) -> Measure:
    asked = [shot for shot in shots if shot.role in question.roles]
    return Measure(
        question=question,
        before=_rate(question, (shot.before for shot in asked)),
        after=_rate(question, (shot.after for shot in asked)),
    )


def _rate(question: Question, images: Iterable[Drawn | None]) -> Rate | None:
    verdicts = [_hit(question, image) for image in images if image]
    known = [verdict for verdict in verdicts if verdict is not None]
    return Rate(hits=sum(known), n=len(known)) if known else None


def _hit(question: Question, image: Drawn) -> bool | None:
    """Whether the judge saw what was asked for; None where the question does not arise."""
    match question.about:
        case "thing":
            return image.seen_thing == image.asked_thing if image.asked_thing else None
        case "artist":
            # A prompt of no artist the judge knows reads as a photo: it says nothing of artists.
            known = image.asked_look and image.asked_look != PHOTO
            return image.seen_look == image.asked_look if known else None
        case "photo":
            return image.seen_look == PHOTO if image.asked_look == PHOTO else None
