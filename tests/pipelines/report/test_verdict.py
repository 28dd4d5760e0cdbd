"""What a report says first: who is erased, who is not, and what nobody has looked at."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import pytest

from conceptprune.evaluation.scorers.base import Metric
from pipelines.records.recognised import ScorerMetric, Seen
from pipelines.report.accuracy import judge_pairs, still_seen
from pipelines.report.image_pairs import Gallery, ImagePair, Role, SeenImage, make_strip
from pipelines.report.values import ConceptReport, Cost, Failure, ReportData, Status
from pipelines.report.verdict import verdict
from tests.support.pngs import PNG

STYLE = ScorerMetric(
    scorer="judge",
    metric="style accuracy",
    how=Metric(kept="higher", domain="style", is_share=True),
)
NOTHING = Cost(evaluations=0, seconds=0, size=0, units={}, kinds=())


def image_pair(
    after: float | None, *, before: float | None = 1.0, seed: int = 0, role: Role = "own"
) -> ImagePair:
    def image(value: float | None) -> SeenImage:
        return SeenImage(png=PNG, seen=(Seen(by=STYLE, value=value, seen="x"),))

    return ImagePair(
        prompt=f"p{seed % 3}", seed=seed, role=role, before=image(before), after=image(after)
    )


def concept(
    name: str,
    image_pairs: Sequence[ImagePair] = (),
    *,
    status: Status = "done",
    error: str = "",
    kind: str = "style",
) -> ConceptReport:
    failures = (Failure(unit="u", attempts=1, error=error),) if error else ()
    return ConceptReport(
        name=name,
        kind=kind,
        status=status,
        failures=failures,
        cost=NOTHING,
        mask=None,
        checkpoints=(),
        strips=(),
        accuracy=judge_pairs(image_pairs, kind=kind),
        where=None,
    )


@dataclass
class Report:
    """As much of a report as its verdict looks at."""

    concepts: Sequence[ConceptReport]
    lacking: Sequence[str] = field(default_factory=tuple)
    combined: None = None


def said(*concepts: ConceptReport, lacking: Sequence[str] = ()) -> str:
    return verdict(cast(ReportData, Report(concepts, lacking)))


GONE = [image_pair(0.0, seed=seed) for seed in range(4)]
LEFT = [image_pair(0.0, seed=0), image_pair(1.0, seed=1)]


def test_what_is_seen_nowhere_any_more_is_erased() -> None:
    assert said(concept("a", GONE), concept("b", GONE)) == (
        "2 artists erased; none is recognised any more in 8 images."
    )


def test_what_is_still_seen_is_not_called_erased() -> None:
    assert said(concept("a", GONE), concept("b", LEFT)) == (
        "2 artists pruned; 1 is still recognised, in 1 of 6 images (b)."
    )


def test_what_is_to_stay_is_told_beside_it() -> None:
    kept = [*GONE, image_pair(1.0, role="retained"), image_pair(0.0, role="retained", seed=1)]
    assert said(concept("a", kept)).endswith("; others are recognised in 50 % of 2 images.")


def test_concepts_that_nobody_looked_at_are_counted_as_that_and_not_as_erased() -> None:
    assert said(concept("a"), concept("b", [image_pair(None, before=None)])) == (
        "2 with a mask whose effect nobody has checked (a, b)."
    )


@pytest.mark.parametrize(
    ("each", "flag"),
    [
        (concept("a", GONE), ""),
        (concept("a", LEFT), "still recognised"),
        (concept("a"), "not checked"),
        (concept("a", [image_pair(0.0, before=0.0)]), "was never there"),
        (concept("a", status="failed", error="NoEffectError: no image"), "was never there"),
        (concept("a", GONE, status="failed", error="ValueError: x"), "failed"),
        (concept("a", GONE, status="unfinished"), "unfinished"),
    ],
)
def test_each_concept_has_the_one_flag_that_a_reader_must_see(
    each: ConceptReport, flag: str
) -> None:
    assert each.flag == flag


def test_every_concept_is_in_the_sentence_once_and_whom_the_combined_one_lacks() -> None:
    found = said(
        concept("a", GONE, kind="style"),
        concept("b", status="failed", error="ValueError: x", kind="object"),
        concept("c", [image_pair(0.0, before=0.0)]),
        concept("d"),
        lacking=("b",),
    )
    assert found == (
        "1 concept erased; none is recognised any more in 4 images; 1 failed (b); 1 never there "
        "(c); 1 with a mask whose effect nobody has checked (d); the combined checkpoint is "
        "without b."
    )


def test_images_in_which_a_concept_is_still_seen_come_first_and_are_never_left_out() -> None:
    image_pairs = [image_pair(float(seed in (5, 11)), seed=seed) for seed in range(12)]
    gallery = Gallery(place=lambda data, suffix: suffix, max_pixels=256, whole=False)
    strip = make_strip(
        image_pairs, "own", limit=4, gallery=gallery, first=lambda each: still_seen(each, "style")
    )
    assert strip is not None
    assert [column.seed for column in strip.columns[:2]] == [5, 11]
    assert (len(strip.columns), strip.total) == (4, 12)
    assert len({column.prompt for column in strip.columns[2:]}) == 2


def test_only_an_image_that_asks_for_it_can_still_show_a_concept() -> None:
    assert still_seen(image_pair(1.0), "style")
    assert not still_seen(image_pair(1.0), "object")
    assert not still_seen(image_pair(1.0, role="retained"), "style")
    assert not still_seen(image_pair(0.0), "style")
