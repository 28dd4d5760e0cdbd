"""What is plotted: the run's own previews, or evaluations of both groups."""

from .accuracy import Accuracy, Rate
from .evaluations import Panel, Score
from .links import COMBINED, Links, concept_page
from .tradeoff import Axes, Number, Point, TradeOff, trade_off
from .values import ReportData


def of_previews(report: ReportData) -> TradeOff | None:
    """One mark per concept's mask, what combines them and the base model; None without a judge.

    For artists, what should stay is other artists; for objects, other things.
    """
    points = [
        _point(concept.name, "mask", concept_page(concept.name), *_after(concept.accuracy))
        for concept in report.concepts
    ]
    if combined := report.combined:
        label = combined.words.short.lower()
        points.append(_point(label, combined.how, COMBINED, *_after(combined.accuracy)))
    before = report.untouched
    if before:
        rates = before.erased.before, before.retained.before
        points.insert(0, _point("untouched model", "base", "", *rates))
    whole = [point for point in points if point]
    if not any(point.source != "base" for point in whole):
        return None
    axes = Axes(
        erased="Erased concept recognised, %",
        retained="Others recognised, %",
        is_share=True,
    )
    return trade_off(whole, axes, crowd="#previews-table")


def _after(accuracy: Accuracy | None) -> tuple[Rate | None, Rate | None]:
    return (accuracy.erased.after, accuracy.retained.after) if accuracy else (None, None)


def _point(
    label: str, source: str, href: str, erased: Rate | None, retained: Rate | None
) -> Point | None:
    if erased is None or retained is None:
        return None
    return Point(
        label=label,
        source=source,
        href=href,
        erased=Number.of(erased),
        retained=Number.of(retained),
    )


def of_panel(panel: Panel, links: Links, *, table: str) -> TradeOff | None:
    """One mark per checkpoint with numbers for both groups; `table` has all of them."""
    points = []
    for line in panel.lines:
        checkpoint = line.checkpoint
        erased, retained = (_number(line.scores.get(name)) for name in ("erased", "retained"))
        if erased and retained:
            page = links.checkpoint(checkpoint)
            points.append(
                Point(
                    label=checkpoint.label,
                    source=links.how if page == COMBINED else checkpoint.source,
                    href=page,
                    erased=erased,
                    retained=retained,
                )
            )
    unit = ", %" if panel.is_share else ""
    axes = Axes(
        erased=f"{panel.metric} on what should go{unit}",
        retained=f"{panel.metric} on what should stay{unit}",
        is_share=panel.is_share,
    )
    return trade_off(points, axes, crowd=table)


def _number(score: Score | None) -> Number | None:
    if score is None or score.value is None:
        return None
    return Number(value=score.value, low=score.low, high=score.high, n=score.n)
