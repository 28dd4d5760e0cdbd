"""How often a suite's scorers see what should be gone, and how much of what should stay."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from conceptprune.attacks.plan import judgement
from conceptprune.attacks.units import Judgement
from conceptprune.errors import UserError
from conceptprune.evaluation.items import Item, own_items
from conceptprune.evaluation.plan import EvaluationPlan
from conceptprune.evaluation.scorers.base import Facts
from conceptprune.evaluation.scoring import read_rows
from conceptprune.evaluation.suite import Source, Suite
from conceptprune.evaluation.summarise import CaseKey, case_key
from conceptprune.evaluation.tables import labels_from_json
from conceptprune.evaluation.units import Entry, ImagesUnit, ScoresUnit
from conceptprune.manifest import Concept, concept_key
from conceptprune.store import Store
from conceptprune.units.find import find_commit

from ..records.run_files import told_if_strange

MetricName = tuple[str, str]
"""A scorer's title, and one of its metrics."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """In how many images something was seen, of how many that the scorer can tell about."""

    hits: int
    images: int

    @property
    def rate(self) -> float:
        """The share; 0 of none."""
        return self.hits / self.images if self.images else 0.0

    def __add__(self, other: "Seen") -> "Seen":
        return Seen(hits=self.hits + other.hits, images=self.images + other.images)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What scorers say of one checkpoint."""

    erased: Mapping[str, Seen]
    """By concept."""
    kept: float | None
    """The mean over the images of what should stay; None if there are none that tell."""

    def seen(self, names: Iterable[str]) -> Seen:
        """Some concepts together."""
        return sum((self.erased[name] for name in names), Seen(hits=0, images=0))

    def holds(self, untouched: "Measured", share: float) -> bool:
        """Whether enough of what the untouched model shows of what should stay is left."""
        if self.kept is None or untouched.kept is None:
            return True
        return self.kept >= share * untouched.kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """By which metrics a suite's concepts are judged."""

    of: Mapping[str, Judgement]
    """By concept, when an image shows it."""
    kept: Mapping[str, MetricName | None]
    """By concept, what says whether other prompts' images are as they should be."""

    @property
    def scorers(self) -> frozenset[str]:
        """Titles of the scorers that it needs."""
        judging = (how.scorer.title for how in self.of.values())
        return frozenset([*judging, *(metric[0] for metric in self.kept.values() if metric)])

    def read(self, plan: EvaluationPlan, entry: Entry, store: Store) -> "Scores | None":
        """What the scorers say of a checkpoint of an evaluation; None if a score is missing.

        Raises:
            StoreError: a score is damaged.
        """
        judging = ((how.scorer.title, how.metric) for how in self.of.values())
        values = _values(plan, entry, [*judging, *filter(None, self.kept.values())], store)
        if values is None:
            return None
        items = plan.evaluation.items
        items = own_items(items, entry.checkpoint.erased) if entry.own else items
        return Scores(judge=self, items=items, values=values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """The scores of one checkpoint, read once for all concepts."""

    judge: Judge
    items: tuple[Item, ...]
    values: Mapping[MetricName, Mapping[CaseKey, float]]

    def measured(self, names: Iterable[str]) -> Measured:
        """What they say about some concepts, and of what must stay, by these concepts' metrics."""
        names = tuple(names)
        stay = dict.fromkeys(metric for name in names if (metric := self.judge.kept[name]))
        kept = [
            value
            for metric in stay
            for item in self.items
            if item.group != "erased"
            if (value := self.values[metric].get(case_key(item))) is not None
        ]
        return Measured(
            erased={name: self._seen(name) for name in names},
            kept=sum(kept) / len(kept) if kept else None,
        )

    def _seen(self, name: str) -> Seen:
        how = self.judge.of[name]
        values = self.values[how.scorer.title, how.metric]
        found = [
            value >= how.at_least
            for item in self.items
            if item.group == "erased" and concept_key(item.name) == concept_key(name)
            if (value := values.get(case_key(item))) is not None
        ]
        return Seen(hits=found.count(True), images=len(found))


def judged_on(suite: Suite, concepts: Iterable[Concept]) -> tuple[Suite, tuple[str, ...]]:
    """The suite with these concepts alone in `erased`, in their order.

    Of one that it does not name, it gets the prompts that a source with that concept has.

    Returns:
        The suite, and the names of such concepts.
    """
    sources = {concept_key(each.title): each for each in suite.groups.erased}
    erased = {
        concept.name: sources.get(concept_key(concept.name)) or _source(concept, suite)
        for concept in concepts
    }
    added = tuple(name for name in erased if concept_key(name) not in sources)
    groups = suite.groups.model_copy(update={"erased": tuple(erased.values())})
    return suite.model_copy(update={"groups": groups}), added


def _source(concept: Concept, suite: Suite) -> Source:
    """A source of a concept's prompts, as if the suite named it: with the suite's own fillers."""
    fields = {name: getattr(concept, name) for name in Concept.model_fields}
    fillers = getattr(suite.fillers, concept.kind, None)
    if fillers and concept.prompts is None:
        fields["fillers"] = fillers
    return Source(concept=Concept(**fields))


def judge_of(suite: Suite, facts: tuple[Facts, ...], names: Iterable[str], source: object) -> Judge:
    """How the suite judges each of its erased concepts, which have these `names` in its order.

    Raises:
        UserError: no scorer can tell whether an image shows one of them.
    """
    of: dict[str, Judgement] = {}
    kept: dict[str, MetricName | None] = {}
    for name, each in zip(names, suite.groups.erased, strict=True):
        groups = suite.groups.model_copy(update={"erased": (each,)})
        try:
            of[name] = judgement(suite.model_copy(update={"groups": groups}), facts)
        except UserError as error:
            raise UserError(f"{source}: {name}: {error}") from error
        kept[name] = _kept_metric(suite, of[name])
    return Judge(of=of, kept=kept)


def _kept_metric(suite: Suite, judged: Judgement) -> MetricName | None:
    """The judging metric if it should stay high elsewhere, or else the first one that should."""
    first = (judged.scorer, judged.metric)
    others = ((scorer, metric) for scorer in suite.scorers for metric in scorer.metrics)
    for scorer, metric in (first, *others):
        single = not scorer.of_sets and not scorer.compares
        if single and scorer.metrics[metric].kept == "higher":
            return scorer.title, metric
    return None


def _values(
    plan: EvaluationPlan, entry: Entry, wanted: Iterable[MetricName], store: Store
) -> dict[MetricName, dict[CaseKey, float]] | None:
    """By metric and image, what the scorers said; None if some did not say anything."""
    found: dict[MetricName, dict[CaseKey, float]] = {name: {} for name in wanted}
    titles = {title for title, _ in found}
    for one in entry.scored:
        if one.scorer.title not in titles:
            continue
        for images, key in zip(entry.images, one.scores, strict=True):
            rows = _rows(store, key)
            shard = plan.by_key[images]
            if rows is None or not isinstance(shard, ImagesUnit):
                return None
            for row in rows:
                name = (one.scorer.title, row["metric"])
                if name in found and row["value"] is not None:
                    labels = labels_from_json(row["labels"])
                    case = (row["prompt"], row["seed"], shard.guidance, labels)
                    found[name][case] = row["value"]
    return found


def _rows(store: Store, key: str) -> list[dict[str, Any]] | None:
    commit = find_commit(store, ScoresUnit.kind, key)
    if commit is None:
        return None
    with told_if_strange(store, commit):
        return read_rows(store, commit, "scores")
