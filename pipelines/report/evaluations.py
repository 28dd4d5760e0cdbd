"""The results of a store's evaluations and attacks: the newest number of each, by panel."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

from conceptprune.attacks.summarise import SUCCESS
from conceptprune.digest import digest_json
from conceptprune.evaluation.scorers import declared
from conceptprune.evaluation.summary import OBJECT, summary_rows
from conceptprune.store import Commit, Store, UnknownFormatError, load_table
from conceptprune.strict_reading import plain_json

from ..records.evaluation import summary_commits
from ..records.fields import time_field
from ..records.run_files import DAMAGED

ATTACK = "attack/"
"""Prefix of an attack's name as a scorer."""

GROUPS = ("erased", "retained", "general")
"""The groups of a suite; any other belongs to one concept, and is named after it."""

SPENT = "spent"
"""The key of what an attack used up, in its settings (the rest is its budget)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Something that was evaluated."""

    label: str
    source: str
    digest: str
    erased: tuple[str, ...]

    @property
    def identity(self) -> str:
        """Equal for the same checkpoint under the same name, in every suite."""
        return digest_json([self.label, self.source, self.digest])


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A number of the summary, with its 95 % interval if it has one."""

    suite: str
    checkpoint: Checkpoint
    group: str
    scorer: str
    metric: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    better: str
    settings: str
    is_share: bool
    """Whether it is a share of the images or attacked prompts, from 0 to 1."""

    @property
    def place(self) -> tuple[str, str, str, str]:
        """What is compared between checkpoints: suite, group, scorer and metric."""
        return self.suite, self.group, self.scorer, self.metric

    @property
    def kind(self) -> tuple[str, str, str]:
        """Suite, scorer and metric: what numbers of different groups have in common."""
        return self.suite, self.scorer, self.metric

    @property
    def concept(self) -> str | None:
        """The concept that its group is about."""
        group, _, name = self.group.partition("/")
        return name if name and group in GROUPS else None

    @property
    def attack(self) -> str | None:
        """The attack's name, if it is a success rate of one."""
        return self.scorer.removeprefix(ATTACK) if self.scorer.startswith(ATTACK) else None

    @property
    def settings_shown(self) -> str:
        """The settings in readable form: `key value` pairs."""
        return _told({name: value for name, value in self._settings.items() if name != SPENT})

    @property
    def spent(self) -> Mapping[str, int]:
        """What an attack used up, by unit of counting."""
        spent = self._settings.get(SPENT, {})
        if not isinstance(spent, dict):
            raise ValueError("what an attack spent is no section of numbers")
        return {name: number for name, number in spent.items() if isinstance(number, int)}

    @property
    def _settings(self) -> Mapping[str, Any]:
        return _read_settings(self.settings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line of a panel."""

    checkpoint: Checkpoint
    about: str
    """The concept that its numbers are about, or the target of an attack; otherwise empty."""
    scores: Mapping[str, Score]
    """By column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """Numbers that can be compared: one metric of one suite, for checkpoints.

    The columns are the groups of one scorer, or all attacks; each concept has its own line.
    """

    suite: str
    scorer: str
    metric: str
    is_attack: bool
    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    is_share: bool

    @property
    def scores(self) -> tuple[Score, ...]:
        """All of its numbers."""
        return tuple(score for line in self.lines for score in line.scores.values())

    @property
    def better(self) -> Mapping[str, str]:
        """By column: whether lower or higher numbers are better, or empty."""
        return {
            column: score.better for line in self.lines for column, score in line.scores.items()
        }

    @property
    def settings(self) -> tuple[str, ...]:
        """The distinct settings behind its numbers; an attack's follow its name."""
        shown = {
            f"{score.attack}: {text}" if score.attack else text: None
            for score in self.scores
            if (text := score.settings_shown)
        }
        return tuple(shown)

    @property
    def spent(self) -> Mapping[str, int]:
        """What all of its attacks used up; those on a whole group count each concept once."""
        whole = [score for score in self.scores if score.concept is None]
        spent: Counter[str] = Counter()
        for score in whole or self.scores:
            spent.update(score.spent)
        return spent

    @property
    def is_trade_off(self) -> bool:
        """Whether it measures both what is gone and what has stayed."""
        return (self.better.get("erased"), self.better.get("retained")) == ("lower", "higher")


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluations:
    """All evaluations of a store, in the order of their tables."""

    scores: tuple[Score, ...]
    not_shown: tuple[str, ...] = ()
    """What another version recorded that this one does not know."""

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """All checkpoints, without duplicates."""
        return tuple(
            {score.checkpoint.identity: score.checkpoint for score in self.scores}.values()
        )

    @property
    def panels(self) -> tuple[Panel, ...]:
        """The numbers of whole groups; attacks on single concepts if there are no others."""
        whole = [score for score in self.scores if score.concept is None]
        attacked = any(score.attack for score in whole)
        single = [score for score in self.scores if score.concept and score.attack]
        return panels(whole if attacked else whole + single)


def panels(scores: Iterable[Score]) -> tuple[Panel, ...]:
    """Group the scores that can be compared."""
    found: dict[tuple[str, str, str], list[Score]] = {}
    for score in scores:
        scorer = ATTACK if score.attack else score.scorer
        found.setdefault((score.suite, scorer, score.metric), []).append(score)
    return tuple(_panel(*place, of) for place, of in found.items())


def _panel(suite: str, scorer: str, metric: str, scores: list[Score]) -> Panel:
    lines: dict[tuple[str, str], Line] = {}
    for score in scores:
        group, _, _ = score.group.partition("/")
        whole = score.group in GROUPS or not score.attack
        about = score.concept or ("" if whole else score.group)
        column = score.attack or (group if score.concept else score.group)
        at = (score.checkpoint.identity, about)
        line = lines.get(at) or Line(checkpoint=score.checkpoint, about=about, scores={})
        lines[at] = replace(line, scores={**line.scores, column: score})
    columns = {column for line in lines.values() for column in line.scores}
    return Panel(
        suite=suite,
        scorer=scorer,
        metric=metric,
        is_attack=scorer == ATTACK,
        columns=tuple(sorted(columns, key=group_order)),
        # The base model first: everything else is compared with it.
        lines=tuple(sorted(lines.values(), key=lambda line: line.checkpoint.source != "base")),
        is_share=all(score.is_share for score in scores),
    )


def group_order(group: str) -> tuple[int, str]:
    """A sort key: the groups that every suite has, before others."""
    return (GROUPS.index(group), "") if group in GROUPS else (len(GROUPS), group)


def read_evaluations(store: Store) -> Evaluations:
    """Every number of the store's evaluations and attacks; the newest if one was made twice.

    Summaries that are not such as this version writes are left out, and named.

    Raises:
        StoreError: a summary is damaged or missing.
    """
    not_shown: dict[str, None] = {}

    def passed_over(_: UnknownFormatError) -> None:
        not_shown["evaluations with a record of another format"] = None

    commits = summary_commits(store, passed_over)
    whole = [commit for commit in commits if OBJECT in commit.objects]
    scores: dict[tuple[str, ...], Score] = {}
    for commit in sorted(
        whole, key=lambda each: (time_field(each.provenance, "finished", 0.0), each.key)
    ):
        try:
            found = _scores(store, commit)
        except UnknownFormatError as error:
            not_shown[str(error)] = None
            continue
        for score in found:
            at = (score.suite, score.checkpoint.identity, score.group, score.scorer, score.metric)
            # After everything older, even if it was first measured before.
            scores.pop(at, None)
            scores[at] = score
    return Evaluations(scores=tuple(scores.values()), not_shown=tuple(not_shown))


def _scores(store: Store, commit: Commit) -> list[Score]:
    name = f"the evaluation {commit.key[:12]}"
    try:
        scores = [_score(row) for row in summary_rows(load_table(store, commit, OBJECT))]
        for score in scores:
            # Read here, so that no page fails on settings that nobody can show.
            _ = score.settings_shown, score.spent
    except UnknownFormatError as error:
        raise UnknownFormatError(f"{name} of {error}") from error
    except DAMAGED as error:
        raise UnknownFormatError(
            f"{name}, which is not such as this version writes ({error})"
        ) from error
    return scores


def _score(row: Mapping[str, Any]) -> Score:
    checkpoint = Checkpoint(
        label=row["checkpoint"],
        source=row["source"],
        digest=row["digest"],
        erased=tuple(row["erased"]),
    )
    return Score(
        checkpoint=checkpoint,
        suite=row["suite"],
        group=row["group"],
        scorer=row["scorer"],
        metric=row["metric"],
        value=_finite(row["value"]),
        low=_finite(row["low"]),
        high=_finite(row["high"]),
        n=row["n"],
        better=row["better"],
        settings=row["settings"],
        is_share=_is_share(row),
    )


def _is_share(row: Mapping[str, Any]) -> bool:
    """Whether the scorer or attack declares its metric to be a share."""
    if row["scorer"].startswith(ATTACK):
        return SUCCESS.is_share
    metric = declared(_read_settings(row["settings"]), row["metric"])
    return metric is not None and metric.is_share


def _read_settings(text: str) -> Mapping[str, Any]:
    settings = plain_json(text or "{}")
    return settings if isinstance(settings, dict) else {"": settings}


def _finite(number: float | None) -> float | None:
    return number if number is not None and isfinite(number) else None


def _told(value: object) -> str:
    if isinstance(value, dict):
        # A scorer's settings start with its name, under the same key as the settings.
        told = {name: _told(part).removeprefix(f"{name} ") for name, part in value.items()}
        parts = [f"{name} {part}".strip() for name, part in told.items()]
        return ", ".join(f"({part})" if ", " in part else part for part in parts)
    text = value if isinstance(value, str) else json.dumps(value)
    # The start of a digest is enough to identify it.
    return text[:12] if len(text) == 64 and text.isalnum() else text
