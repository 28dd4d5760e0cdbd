"""What became of each concept of a run: is there a mask, was its effect checked, and since when.

"Done" says that every unit has its result. That a mask is written does not say that it erases
anything: only scorers that looked at the images can tell, and only of what they ever saw there.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from conceptprune.digest import canonical_json
from conceptprune.errors import StoreError
from conceptprune.evaluation.scorers import declared
from conceptprune.evaluation.scorers.base import Metric
from conceptprune.evaluation.units import PreviewScoresUnit
from conceptprune.store import Store, UnknownFormatError, parquet_to_table
from conceptprune.units.plan import ConceptPlan, Plan

from ..console.names import some
from .fields import NUMBERS, is_later
from .fields import field as read_field
from .ledger import READERS
from .run_files import told_if_damaged

FILE = "concepts.json"
FORMAT = "conceptprune.concepts/1"

UNCHANGED = "NoEffectError"
"""What the error of a preview begins with whose mask changed no image."""

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """When a concept's mask was made, and by which job of the run."""

    at: float
    """Seconds since 1970."""
    job: str | None
    """None where a run before this one made it."""
    mask: str
    """Key of the mask's unit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConceptState:
    """What became of one concept."""

    name: str
    has_mask: bool
    unchanged: bool = False
    """The mask changed no image at all."""
    scorer: str | None = None
    """Which scorer's word it is; None where none looked, or none can tell."""
    metric: str | None = None
    before: tuple[int, int] | None = None
    """Images of its own prompts on the untouched model: in how many it was seen, of how many."""
    after: tuple[int, int] | None = None
    """The same with its mask."""
    first: Made | None = None
    last: Made | None = None

    @property
    def checked(self) -> bool:
        """Whether a scorer looked for it in images made with its mask."""
        return self.after is not None

    @property
    def never_there(self) -> bool:
        """Whether there was nothing to erase: no image changes, or it was never seen in any."""
        return self.unchanged or (self.before is not None and self.before[0] == 0)


@dataclass(frozen=True, slots=True)
class ConceptStates:
    """What became of all concepts of a run, in the manifest's order."""

    states: Sequence[ConceptState] = field(default_factory=tuple)

    @property
    def not_checked(self) -> tuple[str, ...]:
        """Names of those that have a mask nobody has looked at the effect of."""
        return tuple(each.name for each in self.states if each.has_mask and not each.checked)

    @property
    def never_there(self) -> tuple[str, ...]:
        """Names of those that were never there."""
        return tuple(each.name for each in self.states if each.never_there)

    @property
    def checked(self) -> int:
        """How many a scorer has looked for."""
        return sum(each.has_mask and each.checked for each in self.states)

    def lines(self) -> Iterator[str]:
        """What "done" means here, in a line, and in another what was never there."""
        masks = sum(each.has_mask for each in self.states)
        yield (
            f"{masks} of {len(self.states)} have a mask; effect checked of {self.checked}, "
            f"not checked of {len(self.not_checked)}"
        )
        if self.never_there:
            yield (
                f"was never there: {some(self.never_there)} (no image changes, or the scorer "
                "never saw it on the untouched model)"
            )

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "masks": sum(each.has_mask for each in self.states),
            "checked": self.checked,
            "not_checked": len(self.not_checked),
            "never_there": list(self.never_there),
            "each": [
                {**asdict(each), "checked": each.checked, "never_there": each.never_there}
                for each in self.states
            ],
        }

    def write(self, store: Store, run: str) -> None:
        """Put it on record."""
        content = {"format": FORMAT, "concepts": [asdict(each) for each in self.states]}
        store.write_run_file(run, FILE, canonical_json(content).encode())

    @classmethod
    def read(cls, store: Store, run: str) -> "ConceptStates | None":
        """What is on record; None where nothing is, or a later version wrote it.

        Raises:
            StoreError: it is damaged.
        """
        data = store.read_run_file(run, FILE)
        if data is None:
            return None
        with told_if_damaged(store, run, FILE):
            content = read_field({"": json.loads(data)}, "", dict)
            if is_later(content, FORMAT):
                return None
            return cls(tuple(_state(each) for each in read_field(content, "concepts", list)))


def concept_states(plan: Plan, rows: Sequence[Row], store: Store, job: str) -> ConceptStates:
    """What became of a run's concepts after `job`, from its ledger and what its scorers saw.

    When a concept was first erased stays as an earlier job had it.
    """
    by_key = {row["key"]: row for row in rows}
    looked: dict[str, list[PreviewScoresUnit]] = {}
    for unit in plan.of(PreviewScoresUnit).values():
        if by_key[unit.key]["objects"]:
            looked.setdefault(unit.preview, []).append(unit)
    try:
        earlier = ConceptStates.read(store, plan.run)
    except StoreError:
        # It says nothing that a rerun could not find out, but for the dates.
        earlier = None
    firsts = {each.name: each.first for each in earlier.states} if earlier else {}
    lasts = {each.name: each.last for each in earlier.states} if earlier else {}

    def state(each: ConceptPlan) -> ConceptState:
        name = each.concept.name
        mask = by_key[each.mask.key]
        made = _made(mask, job, lasts.get(name))
        after = by_key[each.preview_after.key] if each.preview_after else None
        seen = _seen(each, looked, store) if made else None
        return ConceptState(
            name=name,
            has_mask=made is not None,
            unchanged=bool(after and (after["error"] or "").startswith(UNCHANGED)),
            first=firsts.get(name) or made,
            last=made or lasts.get(name),
            **(seen or {}),
        )

    with ThreadPoolExecutor(READERS) as readers:
        return ConceptStates(tuple(readers.map(state, plan.concepts)))


def _made(row: Row, job: str, last: Made | None) -> Made | None:
    if not row["objects"]:
        return None
    finished = row["finished"]
    at = finished.timestamp() if hasattr(finished, "timestamp") else (finished or 0) / 1000
    if last is not None and (last.mask, last.at) == (row["key"], at):
        return last
    return Made(at=at, job=job if row["status"] == "done" else None, mask=row["key"])


def _seen(
    each: ConceptPlan, looked: Mapping[str, Sequence[PreviewScoresUnit]], store: Store
) -> dict[str, Any] | None:
    """What the first scorer that can tell saw of a concept; None where none can."""
    if each.preview_after is None:
        return None
    own = {pair.target.text for pair in each.pairs}
    before = {
        unit.scorer.title: unit
        for preview in each.previews_before
        for unit in looked.get(preview.key, ())
        if any(prompt.text in own for prompt in preview.prompts)
    }
    domain = "object" if each.concept.kind == "object" else "style"
    for unit in looked.get(each.preview_after.key, ()):
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
    """In how many images of a concept's own prompts it was seen, and of how many."""
    commit = store.find(unit.kind, unit.key)
    if commit is None:
        return None
    how = declared(commit.provenance["settings"], metric)
    if how is None:
        return None
    try:
        rows = parquet_to_table(store.load(commit, "scores")).to_pylist()
    except UnknownFormatError:
        return None
    values = [
        row["value"]
        for row in rows
        if row["metric"] == metric and row["prompt"] in own and row["value"] is not None
    ]
    return (sum(value > 0 for value in values), len(values)) if values else None


def _state(content: Any) -> ConceptState:
    """One concept's; an error where it is not as `write` leaves it."""
    state: Mapping[str, Any] = read_field({"": content}, "", dict)
    return ConceptState(
        name=read_field(state, "name", str),
        has_mask=state.get("has_mask") is True,
        unchanged=state.get("unchanged") is True,
        scorer=read_field(state, "scorer", str, "") or None,
        metric=read_field(state, "metric", str, "") or None,
        before=_images(state.get("before")),
        after=_images(state.get("after")),
        first=_when_made(state.get("first")),
        last=_when_made(state.get("last")),
    )


def _images(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    hits, number = value
    return int(hits), int(number)


def _when_made(value: Any) -> Made | None:
    if value is None:
        return None
    made: Mapping[str, Any] = read_field({"": value}, "", dict)
    return Made(
        at=float(read_field(made, "at", NUMBERS)),
        job=read_field(made, "job", str, "") or None,
        mask=read_field(made, "mask", str),
    )
