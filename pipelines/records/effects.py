"""What a job's scorers saw of each concept, from its plan, its ledger and the score tables."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from conceptprune.evaluation.scorers import declared
from conceptprune.evaluation.scorers.base import Metric
from conceptprune.evaluation.units import PreviewScoresUnit
from conceptprune.store import Commit, Store, UnknownFormatError, load_table
from conceptprune.units.plan import ConceptPlan, Plan
from conceptprune.units.units import PreviewUnit

from .concepts import UNCHANGED, ConceptState, ConceptStates, Row
from .history import History
from .ledger import READERS
from .run_files import told_if_strange


def concept_states(
    plan: Plan, rows: Sequence[Row], store: Store, job: str, *, model: str
) -> ConceptStates:
    """What became of a run's concepts after `job`, from its ledger and what its scorers saw.

    When each was first and last erased is that of all runs of the store on the same model, whose
    identity is `model`.
    """
    by_key = {row["key"]: row for row in rows}
    looked: dict[str, list[PreviewScoresUnit]] = {}
    for unit in plan.of(PreviewScoresUnit).values():
        if by_key[unit.key]["objects"]:
            looked.setdefault(unit.preview, []).append(unit)
    history = History(store, model, [each.concept.name for each in plan.concepts])

    def state(each: ConceptPlan) -> ConceptState:
        name = each.concept.name
        mask = by_key[each.mask.key]
        made = history.add(name, mask, run=plan.run, job=job)
        after = by_key[each.preview_after.key] if each.preview_after else None
        seen = _seen(each, _previews_after(plan, each), looked, store) if made else None
        return ConceptState(
            name=name,
            has_mask=made is not None,
            unchanged=bool(after and (after["error"] or "").startswith(UNCHANGED)),
            first=history.first(name),
            last=history.last(name),
            **(seen or {}),
        )

    with ThreadPoolExecutor(READERS) as readers:
        return ConceptStates(tuple(readers.map(state, plan.concepts)))


def _previews_after(plan: Plan, each: ConceptPlan) -> list[PreviewUnit]:
    """A concept's images without it: by its own mask, or else of the combined checkpoint."""
    if each.preview_after:
        return [each.preview_after]
    own = {pair.target.text for pair in each.pairs}
    return [
        unit
        for unit in plan.combined_previews
        if any(prompt.text in own for prompt in unit.prompts)
    ]


def _seen(
    each: ConceptPlan,
    previews: Sequence[PreviewUnit],
    looked: Mapping[str, Sequence[PreviewScoresUnit]],
    store: Store,
) -> dict[str, Any] | None:
    """What the first scorer that can tell saw of a concept; None if no scorer can."""
    own = {pair.target.text for pair in each.pairs}
    before = {
        unit.scorer.title: unit
        for preview in each.previews_before
        for unit in looked.get(preview.key, ())
        if any(prompt.text in own for prompt in preview.prompts)
    }
    domain = "object" if each.concept.kind == "object" else "style"
    for unit in (unit for preview in previews for unit in looked.get(preview.key, ())):
        for name in _telling(unit.scorer.metrics, domain):
            after = _hits(unit, name, own, store)
            if after is None:
                continue
            first = before.get(unit.scorer.title)
            return {
                "scorer": unit.scorer.title,
                "metric": name,
                "before": _hits(first, name, own, store) if first else None,
                "after": after,
            }
    return None


def _telling(metrics: Mapping[str, Metric], domain: str) -> list[str]:
    """Metrics that say in which images a concept of that domain is seen, the best first."""
    shares = {name: metric for name, metric in metrics.items() if metric.is_share}
    inside = [name for name, metric in shares.items() if metric.domain == domain]
    others = [name for name, metric in shares.items() if metric.domain is None and metric.erased]
    return [*inside[:1], *others[:1]]


def _hits(
    unit: PreviewScoresUnit, metric: str, own: set[str], store: Store
) -> tuple[int, int] | None:
    """(images in which a concept was seen, all images) of its own prompts; None if unknown."""
    commit = store.find(unit.kind, unit.key)
    if commit is None:
        return None
    with told_if_strange(store, commit):
        return _hits_in(commit, metric, own, store)


def _hits_in(commit: Commit, metric: str, own: set[str], store: Store) -> tuple[int, int] | None:
    how = declared(commit.provenance["settings"], metric)
    if how is None:
        return None
    try:
        rows = load_table(store, commit, "scores").to_pylist()
    except UnknownFormatError:
        return None
    values = [
        row["value"]
        for row in rows
        if row["metric"] == metric and row["prompt"] in own and row["value"] is not None
    ]
    return (sum(value > 0 for value in values), len(values)) if values else None
