"""What was measured of the masks of a run, which evaluations and attacks name by their digest."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .evaluations import Score, group_order
from .links import FUSED, Links, concept_page


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What was measured of one concept's erasure."""

    own: tuple[Score, ...]
    """By evaluations of its mask: of the concept itself and of all that was to stay."""
    fused: tuple[Score, ...]
    """By evaluations of the fused mask: of the concept itself."""
    erased: Score | None
    """How much of it is left with its mask, in the metric that most concepts of the run have."""
    attack: Score | None
    """The attack that brings it back most often where only its mask is applied."""


def measured(
    names: Iterable[str], scores: Mapping[str, tuple[Score, ...]], links: Links
) -> Mapping[str, Measured]:
    """What was measured of each concept; `scores` are those of the pages by their paths."""
    of_page = {name: scores.get(concept_page(name), ()) for name in names}
    erased = {name: _erased(name, of, links) for name, of in of_page.items()}
    common = Counter(kind for found in erased.values() for kind in found).most_common(1)
    return {
        name: Measured(
            own=_own(name, of, links),
            fused=_left_in_fused(name, of, links),
            erased=erased[name].get(common[0][0]) if common else None,
            attack=_worst_attack(name, of, links),
        )
        for name, of in of_page.items()
    }


def _mine(name: str, score: Score, links: Links) -> bool:
    """Whether it is of the concept's own mask and of no other concept, which a suite may have."""
    about = score.concept is None or score.group == f"erased/{name}"
    return about and links.checkpoint(score.checkpoint) == concept_page(name)


def _own(name: str, scores: Iterable[Score], links: Links) -> tuple[Score, ...]:
    mine = _newest(score for score in scores if _mine(name, score, links))
    kinds = {score.kind for score in mine if score.concept}
    # Of a mask that claims this concept alone, all that was erased says the same once more.
    return tuple(score for score in mine if score.group != "erased" or score.kind not in kinds)


def _left_in_fused(name: str, scores: Iterable[Score], links: Links) -> tuple[Score, ...]:
    return _newest(
        score
        for score in scores
        if score.group == f"erased/{name}" and links.checkpoint(score.checkpoint) == FUSED
    )


def _newest(scores: Iterable[Score]) -> tuple[Score, ...]:
    """The newest of each number, for a mask may have been evaluated under several labels."""
    newest = {score.place: score for score in scores if not score.attack}
    return tuple(
        sorted(
            newest.values(),
            key=lambda score: (group_order(score.group.partition("/")[0]), *score.kind),
        )
    )


def _erased(name: str, scores: Iterable[Score], links: Links) -> dict[tuple[str, ...], Score]:
    """By suite, scorer and metric: each share that says how much of a concept is left."""
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
    # A suite may attack concepts that this mask never touched: these are none of its failures.
    own = [score for score in attacks if score.concept]
    return max(own or attacks, key=lambda score: score.value or 0.0, default=None)
