"""From scores of single images to the summary: means by group, with their intervals."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from conceptprune.digest import canonical_json
from conceptprune.evaluation.bootstrap import interval_settings, mean_interval
from conceptprune.evaluation.items import Item, claimed_by
from conceptprune.evaluation.scorers.base import PLACES, Better, Facts, Labels, ScorerSettings
from conceptprune.evaluation.summary import SCHEMA
from conceptprune.evaluation.tables import sorted_table
from conceptprune.evaluation.units import Entry, EvaluationUnit
from conceptprune.manifest.fields import concept_key

SUBGROUPS = ("erased", "retained")
"""Groups whose sources also have their own rows in the summary."""

CaseKey = tuple[str, int, float, Labels]
"""Text, seed, guidance and labels: what identifies a scored image."""

Values = Mapping[tuple[str, CaseKey], float]
"""A scorer's numbers of one checkpoint, by metric and case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """All numbers of one scorer for one checkpoint."""

    scorer: ScorerSettings
    facts: Facts
    values: Values
    sets: Mapping[tuple[str, str], Mapping[str, Any]]
    """Numbers of whole sets, by group and metric: value, low, high, n."""


def case_key(item: Item) -> CaseKey:
    """The key of an item's numbers."""
    return (item.prompt.text, item.prompt.seed, item.guidance, item.labels)


def summary_table(unit: EvaluationUnit, scored: Sequence[Sequence[Scored]]) -> pa.Table:
    """The summary of an evaluation; `scored` are the numbers by checkpoint and scorer."""
    rows = [
        row
        for entry, by_scorer in zip(unit.entries, scored, strict=True)
        for one in by_scorer
        for row in _rows(unit, entry, one)
    ]
    return sorted_table(rows, SCHEMA)


def scorer_settings(scorer: ScorerSettings, facts: Facts) -> dict[str, Any]:
    """What decides a scorer's numbers, as written next to each of them."""
    settings = scorer.model_dump(mode="json")
    return {**_facts(facts), "scorer": {name: _named(value) for name, value in settings.items()}}


def scorer_key(scorer: ScorerSettings, facts: Facts) -> dict[str, Any]:
    """What decides a scorer's numbers: not its name, nor the location of its files."""
    settings = scorer.model_dump(mode="json", exclude={*PLACES, "name"})
    return {**_facts(facts), "scorer": settings}


def _facts(facts: Facts) -> dict[str, Any]:
    return {"versions": dict(facts.versions), "weights": facts.weights}


def _named(value: Any) -> Any:
    """A setting as shown to others: only the last part of an absolute path."""
    match value:
        case {"folder": str(folder)}:
            return {"folder": Path(folder).name}
        case str() if Path(value).is_absolute():
            return Path(value).name
    return value


def _rows(unit: EvaluationUnit, entry: Entry, one: Scored) -> Iterator[dict[str, Any]]:
    settings = scorer_settings(one.scorer, one.facts)
    groups = _groups(unit.items, entry.checkpoint.erased)
    for metric, how in one.scorer.metrics.items():
        for group, items in groups.items():
            values = _values(one.values, metric, items)
            if values:
                better = how.better(group.split("/")[0], unit.erased)
                name = (one.scorer.title, metric)
                yield _row(unit, entry, group, name, values, better, settings)
        if unit.unlearncanvas and how.domain is not None:
            yield from _unlearncanvas(unit, entry, one, metric, groups, settings)
    for (group, metric), found in one.sets.items():
        better = one.scorer.metrics[metric].better(group, unit.erased)
        yield {
            **_about(unit, entry),
            "group": group,
            "scorer": one.scorer.title,
            "metric": metric,
            **found,
            "better": better,
            "settings": canonical_json(settings),
        }


def _unlearncanvas(
    unit: EvaluationUnit,
    entry: Entry,
    one: Scored,
    metric: str,
    groups: Mapping[str, Sequence[Item]],
    settings: Mapping[str, Any],
) -> Iterator[dict[str, Any]]:
    """UnlearnCanvas' accuracies (arXiv 2402.11846): unlearning, in-domain and cross-domain retain.

    UA is the share of the erased concepts' images in which the concept is not recognised. IRA and
    CRA are accuracies on the retained concepts' images: in the same domain and in the other one.
    """
    in_domain = one.scorer.metrics[metric].domain == unit.erased
    wanted = ("erased", "UA") if in_domain else None
    kept = "IRA" if in_domain else "CRA"
    for group, name in filter(None, (wanted, ("retained", kept))):
        values = _values(one.values, metric, groups.get(group, []))
        if values:
            flipped = [1.0 - value for value in values] if name == "UA" else values
            scorer = (f"unlearncanvas/{one.scorer.title}", name)
            yield _row(unit, entry, group, scorer, flipped, "higher", {**settings, "of": metric})


def _groups(items: Sequence[Item], erased: Sequence[str]) -> dict[str, list[Item]]:
    """Items by group, and by group and source's name.

    If a checkpoint says which of the suite's concepts it `erased`, only these count for it;
    otherwise all count.
    """
    claimed = claimed_by(items, erased)
    found: dict[str, list[Item]] = {}
    for item in items:
        if item.group != "erased" or concept_key(item.name) in claimed:
            found.setdefault(item.group, []).append(item)
        if item.group in SUBGROUPS:
            found.setdefault(f"{item.group}/{item.name}", []).append(item)
    return found


def _values(values: Values, metric: str, items: Sequence[Item]) -> list[float]:
    return [values[metric, case_key(item)] for item in items if (metric, case_key(item)) in values]


def _row(
    unit: EvaluationUnit,
    entry: Entry,
    group: str,
    name: tuple[str, str],
    values: Sequence[float],
    better: Better,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    scorer, metric = name
    # Independent of the checkpoint, so that equal numbers have equal intervals.
    what = canonical_json([unit.suite, group, scorer, metric])
    interval = mean_interval(values, resamples=unit.resamples, seed=unit.seed, what=what)
    how = interval_settings(interval, resamples=unit.resamples, seed=unit.seed)
    return {
        **_about(unit, entry),
        "group": group,
        "scorer": scorer,
        "metric": metric,
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
        "n": len(values),
        "better": better,
        "settings": canonical_json({**settings, "interval": how}),
    }


def _about(unit: EvaluationUnit, entry: Entry) -> dict[str, Any]:
    checkpoint = entry.checkpoint
    return {
        "suite": unit.suite,
        "checkpoint": checkpoint.label,
        "source": checkpoint.kind,
        "digest": checkpoint.digest,
        "erased": list(checkpoint.erased),
    }
