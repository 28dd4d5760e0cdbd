"""What `tune` says of a concept, from what was measured of it."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from pipelines.jobs.judging import Judge, Measured, Seen
from pipelines.jobs.search import Search
from pipelines.jobs.strengths import Subject
from pipelines.jobs.tuning import Found, Tuning

GONE, HOLD = 0.05, 0.95
STRENGTHS = (0.01, 0.02, 0.04)
HOW = SimpleNamespace(scorer=SimpleNamespace(title="judge"), metric="style accuracy")


def measured(kept: float | None = 1.0, **hits: int) -> Measured:
    return Measured(
        erased={name: Seen(hits=count, images=10) for name, count in hits.items()}, kept=kept
    )


def search(*after: Measured, before: Measured, reworded: bool = False) -> Search:
    """A search that was told, step by step, what was measured."""
    names = tuple(before.erased)
    made = Search.of(Subject(names=names, strengths=STRENGTHS, reworded=reworded), GONE)
    for one in after:
        made.tell(before, one)
    return made


def of(made: Search, name: str) -> Found:
    judge = Judge(of=cast(Any, dict.fromkeys(made.subject.names, HOW)), kept={})
    return made.of_concept(name, judge, HOLD)


def tuning(made: Search) -> Tuning:
    return Tuning(
        run="r",
        method="reword" if made.subject.reworded else "conceptprune",
        suite={},
        gone=GONE,
        hold=HOLD,
        concepts=tuple(of(made, name) for name in made.subject.names),
        combined=made.whole(HOLD) if made.subject.reworded else None,
        reword=None,
        steps=(),
    )


def test_a_concept_is_gone_at_the_least_strength_that_was_enough() -> None:
    made = search(measured(a=0), measured(a=3), before=measured(a=9))
    found = of(made, "a")
    assert (found.status, found.strength, found.judged) == ("gone", 0.02, ("judge", HOW.metric))
    assert found.before == Seen(hits=9, images=10)
    assert found.at
    assert found.at.after == Seen(hits=0, images=10)
    assert [one.strength for one in found.tried] == [0.01, 0.02]
    assert not made.open
    assert tuning(made).good


@pytest.mark.parametrize(
    ("before", "after", "status"),
    [(1.0, 0.95, "gone"), (1.0, 0.94, "harms"), (0.5, 0.48, "gone"), (None, None, "gone")],
)
def test_what_must_stay_is_compared_with_the_untouched_model(
    before: float | None, after: float | None, status: str
) -> None:
    made = search(
        measured(kept=after, a=0), measured(kept=1.0, a=9), before=measured(kept=before, a=10)
    )
    assert of(made, "a").status == status
    assert tuning(made).good is (status == "gone")
    # What it harms is for the user to weigh: the strength is there all the same.
    assert of(made, "a").strength == 0.02


def test_what_no_strength_removes_has_the_one_that_got_furthest() -> None:
    made = search(measured(a=3), measured(a=4), before=measured(a=10))
    assert (of(made, "a").status, of(made, "a").strength) == ("recognised", 0.02)
    assert not tuning(made).good


def test_what_was_never_there_has_no_strength() -> None:
    made = search(measured(a=0), before=measured(a=0))
    assert (of(made, "a").status, of(made, "a").strength) == ("never-there", None)
    assert not made.open
    assert not tuning(made).good


def test_what_failed_has_no_strength() -> None:
    made = search(measured(a=0), before=measured(a=9))
    made.failed = True
    assert (of(made, "a").status, of(made, "a").strength) == ("failed", None)
    assert not made.open


def test_what_is_reworded_together_is_judged_together() -> None:
    made = search(measured(a=0, b=1), measured(a=5, b=5), before=measured(a=9, b=10), reworded=True)
    assert (made.whole(HOLD).status, made.whole(HOLD).strength) == ("gone", 0.02)
    assert [(of(made, name).status, of(made, name).strength) for name in "ab"] == [
        ("gone", None),
        ("recognised", None),
    ]
    assert tuning(made).good


def test_a_concept_that_was_never_there_does_not_make_the_others_look_gone() -> None:
    made = search(measured(a=1, b=0), before=measured(a=9, b=0), reworded=True)
    assert made.there == ("a",)
    # 1 of 10 and not 1 of 20: more is needed.
    assert made.strength == 0.04
    assert of(made, "b").status == "never-there"
