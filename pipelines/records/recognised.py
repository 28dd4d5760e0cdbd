"""What scorers recognised in a run's previews, image by image."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from conceptprune.evaluation.scorers import declared
from conceptprune.evaluation.scorers.base import Metric
from conceptprune.evaluation.units import PreviewScoresUnit
from conceptprune.store import Commit, Store, load_table

from .run_files import told_if_strange

At = tuple[str, int]
"""Prompt and seed of an image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorerMetric:
    """A metric of one of the manifest's scorers, and how it is read."""

    scorer: str
    """Its name in the manifest."""
    metric: str
    how: Metric


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a scorer says about one image."""

    by: ScorerMetric
    value: float | None
    """None if the scorer cannot say."""
    seen: str | None
    """What it saw, in its own words."""


class Recognised:
    """What the scorers of a run's previews saw.

    Of a scorer's metrics in one domain, only the first is used: the others say the same less
    strictly.
    """

    def __init__(self, store: Store, rows: Iterable[Mapping[str, Any]]) -> None:
        self._store = store
        self._commits: dict[str, list[Any]] = {}
        for row in rows:
            if row["kind"] == PreviewScoresUnit.kind and row["objects"]:
                commit = store.find(PreviewScoresUnit.kind, row["key"])
                if commit is not None:
                    with told_if_strange(store, commit):
                        self._commits.setdefault(commit.provenance["preview"], []).append(commit)

    def of(self, preview: str) -> Mapping[At, Sequence[Seen]]:
        """What was seen in each image of a preview, by its key; scorers in the plan's order.

        Raises:
            StoreError: a table is missing or damaged.
        """
        found: dict[At, dict[ScorerMetric, Seen]] = {}
        for commit in self._commits.get(preview, ()):
            with told_if_strange(self._store, commit):
                self._add(commit, found)
        return {at: tuple(seen.values()) for at, seen in found.items()}

    def _add(self, commit: Commit, found: dict[At, dict[ScorerMetric, Seen]]) -> None:
        title, settings = commit.provenance["title"], commit.provenance["settings"]
        firsts: dict[str, str] = {}
        for row in load_table(self._store, commit, "scores").to_pylist():
            metric = row["metric"]
            how = declared(settings, metric)
            # This version cannot read the metrics of a scorer that it does not know.
            if how is None or firsts.setdefault(how.domain or metric, metric) != metric:
                continue
            by = ScorerMetric(scorer=title, metric=metric, how=how)
            image = found.setdefault((row["prompt"], row["seed"]), {})
            image.setdefault(by, Seen(by=by, value=row["value"], seen=row["seen"]))


PHOTO = "photo"
STUDIO_THING, STUDIO_STYLE = (
    ScorerMetric(
        scorer="studio-judge",
        metric=f"{domain} accuracy",
        how=Metric(kept="higher", domain=domain, is_share=True),
    )
    for domain in ("object", "style")
)


def seen_in_preview_2(row: Mapping[str, Any], bases: Collection[str]) -> tuple[Seen, ...]:
    """What the studio's judge saw in an image of a preview/2, whose table has columns for that.

    `bases` are the prompts that name no concept: only they ask for a photo, without any artist.
    """
    if row["seen_look"] is None:
        return ()
    thing, look = row["asked_thing"], row["asked_look"]
    is_asked = look != PHOTO or row["prompt"] in bases
    return (
        Seen(
            by=STUDIO_THING,
            value=None if thing is None else float(row["seen_thing"] == thing),
            seen=row["seen_thing"],
        ),
        Seen(
            by=STUDIO_STYLE,
            value=float(row["seen_look"] == look) if is_asked else None,
            seen=row["seen_look"],
        ),
    )
