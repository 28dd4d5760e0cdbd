"""Measurements of a run's masks, which evaluations and attacks name by digest."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .evaluations import Score, group_order
from .links import COMBINED, Links, concept_page


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Measurements of one concept's erasure."""

    own: tuple[Score, ...]
    """From evaluations of its mask: for the concept itself and for everything that should stay."""
    combined: tuple[Score, ...]
    """From evaluations of the combined checkpoint: for the concept itself."""
    erased: Score | None
    """How much of it is left under its mask, in the metric that most concepts of the run have."""
    attack: Score | None
    """The attack that most often brings it back when only its mask is applied."""


def measured(
    names: Iterable[str], scores: Mapping[str, tuple[Score, ...]], links: Links
) -> Mapping[str, Measured]:
    """Measurements of each concept; `scores` are those of the pages, by path."""
    of_page = {name: scores.get(concept_page(name), ()) for name in names}
    erased = {name: _erased(name, of, links) for name, of in of_page.items()}
    common = Counter(kind for found in erased.values() for kind in found).most_common(1)
    return {
        name: Measured(
            own=_own(name, of, links),
            combined=_left_in_combined(name, of, links),
            erased=erased[name].get(common[0][0]) if common else None,
            attack=_worst_attack(name, of, links),
        )
        for name, of in of_page.items()
    }


def _mine(name: str, score: Score, links: Links) -> bool:
    """Whether a score is about the concept's own mask and not another concept's."""
    about = score.concept is None or score.group == f"erased/{name}"
    return about and links.checkpoint(score.checkpoint) == concept_page(name)


def _own(name: str, scores: Iterable[Score], links: Links) -> tuple[Score, ...]:
    mine = _newest(score for score in scores if _mine(name, score, links))
    kinds = {score.kind for score in mine if score.concept}
    # For a mask that claims only this concept, the score of the whole erased group is the same.
    return tuple(score for score in mine if score.group != "erased" or score.kind not in kinds)


def _left_in_combined(name: str, scores: Iterable[Score], links: Links) -> tuple[Score, ...]:
    return _newest(
        score
        for score in scores
        if score.group == f"erased/{name}" and links.checkpoint(score.checkpoint) == COMBINED
    )


def _newest(scores: Iterable[Score]) -> tuple[Score, ...]:
    """The newest of each number, because a mask may have been evaluated under several labels."""
    newest = {score.place: score for score in scores if not score.attack}
    return tuple(
        sorted(
            newest.values(),
            key=lambda score: (group_order(score.group.partition("/")[0]), *score.kind),
        )
    )


def _erased(name: str, scores: Iterable[Score], links: Links) -> dict[tuple[str, ...], Score]:
    """By suite, scorer and metric: all shares that say how much of a concept is left."""
    return {
        score.kind: score
        for score in scores
        if score.group == f"erased/{name}"
        and score.is_share
        and score.better == "lower"
        and score.value is not None
        and not score.attack
        and _mine(name, score, links)
    }


def _worst_attack(name: str, scores: Iterable[Score], links: Links) -> Score | None:
    attacks = [
        score
        for score in scores
        if score.attack and score.value is not None and _mine(name, score, links)
    ]
    # A suite may attack concepts that this mask never touched; these are not its failures.
    own = [score for score in attacks if score.concept]
    return max(own or attacks, key=lambda score: score.value or 0.0, default=None)
