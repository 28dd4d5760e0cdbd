"""What `tune` found: for each concept, and all together; as a table and as a document."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .judging import Seen

FORMAT = "conceptprune.tuning/1"

Status = Literal["gone", "harms", "recognised", "never-there", "failed"]
"""`gone`: seen in few enough images, and what must stay holds; `harms`: it does not; `recognised`:
still seen at every strength that was tried; `never-there`: not seen on the untouched model, either;
`failed`: something of it could not be computed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """A strength that was measured."""

    strength: float
    after: Seen
    kept: float | None

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "strength": self.strength,
            "after": [self.after.hits, self.after.images],
            "kept_after": self.kept,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was found for one concept, or for all that are reworded together."""

    name: str
    strength: float | None
    """A sparsity, or a factor; None where there is none to give."""
    status: Status
    judged: tuple[str, str] | None
    """The scorer and the metric that say whether an image shows it; None for several concepts."""
    before: Seen | None
    kept_before: float | None
    at: Tried | None
    """What was measured at the strength, or for a concept at that of all together."""
    tried: tuple[Tried, ...]
    least: bool = False
    """Whether nothing weaker was to choose from."""

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        at = self.at
        scorer, metric = self.judged or (None, None)
        return {
            "name": self.name,
            "strength": self.strength,
            "status": self.status,
            "scorer": scorer,
            "metric": metric,
            "before": self.before and [self.before.hits, self.before.images],
            "after": at and [at.after.hits, at.after.images],
            "kept_before": self.kept_before,
            "kept_after": at and at.kept,
            "tried": [one.as_json() for one in self.tried],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One run of the erase and of the evaluation job."""

    run: str
    evaluation: str | None
    """The evaluation's run; None if there was nothing to evaluate."""
    computed: int
    reused: int
    failed: bool

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "run": self.run,
            "evaluation": self.evaluation,
            "computed": self.computed,
            "reused": self.reused,
            "failed": self.failed,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """The outcome of a tune job."""

    run: str | None
    """The run of the store that erased with all strengths that were found; None without any."""
    method: str
    suite: Mapping[str, Any]
    gone: float
    hold: float
    concepts: tuple[Found, ...]
    combined: Found | None
    """All concepts together, with `method: reword`; the concepts then have no strength."""
    reword: Mapping[str, float] | None
    """The strengths of that rewording."""
    steps: tuple[Step, ...]

    @property
    def good(self) -> bool:
        """Whether everything is gone, and what must stay holds."""
        if self.combined is None:
            return all(found.status == "gone" for found in self.concepts)
        # They are judged together: one may still be seen now and then.
        there = all(found.status in ("gone", "recognised") for found in self.concepts)
        return there and self.combined.status == "gone"

    @property
    def sparsities(self) -> dict[str, float]:
        """By concept, what was found for its own mask."""
        return {found.name: found.strength for found in self.concepts if found.strength is not None}

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "format": FORMAT,
            "run": self.run,
            "method": self.method,
            "suite": dict(self.suite),
            "gone": self.gone,
            "hold": self.hold,
            "concepts": [found.as_json() for found in self.concepts],
            "combined": self.combined and self.combined.as_json(),
            "reword": self.reword and dict(self.reword),
            "steps": [step.as_json() for step in self.steps],
        }


def show(tuning: Tuning, console: Console) -> None:
    """Print the table: a line a concept, and one for all that are reworded."""
    table = Table(box=None, pad_edge=False)
    strength = "factor" if tuning.combined else "k"
    # The others may be broken over lines; the last row's name is known, and short.
    table.add_column("concept", min_width=len("(all, reworded)"))
    for name in (strength, "seen before", "after", "kept before", "after"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("status")
    rows: Sequence[Found] = tuning.concepts
    if tuning.combined:
        rows = (*rows, tuning.combined)
    for found in rows:
        at = found.at
        table.add_row(
            Text(found.name),
            _strength(found.strength, tuning),
            _seen(found.before),
            _seen(at.after if at else None),
            _share(found.kept_before),
            _share(at.kept if at else None),
            Text(_status(found, tuning)),
        )
    console.print(table)


def _strength(strength: float | None, tuning: Tuning) -> str:
    if strength is None:
        return "-"
    return f"{strength:g}" if tuning.combined else f"{100 * strength:g} %"


def _seen(seen: Seen | None) -> str:
    return f"{seen.hits} of {seen.images}" if seen else "-"


def _share(kept: float | None) -> str:
    return "-" if kept is None else f"{kept:.3g}"


def _status(found: Found, tuning: Tuning) -> str:
    match found.status:
        case "gone":
            return "gone" + (", and nothing weaker was tried" if found.least else "")
        case "harms":
            return f"gone, but harms: less than {tuning.hold:g} of what must stay is left"
        case "recognised":
            tried = found.strength is not None
            return "still recognised" + (" at every strength that was tried" if tried else "")
        case "never-there":
            return "never there: not recognised on the untouched model either"
        case "failed":
            return "failed: a unit of it has no result, see above"
