"""What became of each concept of a run: its mask, when that was made, and its checked effect.

"Done" means that every unit has its result. A mask may exist without erasing anything: only scorers
that looked at the images can tell, and only about concepts that they saw before pruning.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from conceptprune.digest import canonical_json
from conceptprune.store import Store

from ..console.names import some
from .fields import count_field, is_later, json_object, time_field
from .fields import field as read_field
from .run_files import told_if_damaged

FILE = "concepts.json"
FORMAT = "conceptprune.concepts/1"

UNCHANGED = "NoEffectError"
"""How the error of a preview begins if its mask changed no image."""

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """When a concept's mask was made, and by which job of which run of the store."""

    at: float
    """Seconds since 1970."""
    run: str | None = None
    """None if not known: a job of an earlier version was stopped before it recorded its masks."""
    job: str | None
    """None if `run` is."""
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
    """The scorer that saw `before` and `after`; None if no scorer looked or could tell."""
    metric: str | None = None
    before: tuple[int, int] | None = None
    """(images in which it was seen, all images) of its own prompts, on the untouched model."""
    after: tuple[int, int] | None = None
    """The same with its mask applied."""
    first: Made | None = None
    """The first time that it was erased, by any run of the store on the same model."""
    last: Made | None = None

    @property
    def checked(self) -> bool:
        """Whether a scorer looked for it in images made with its mask."""
        return self.after is not None

    @property
    def never_there(self) -> bool:
        """Whether there was nothing to erase: no image changes, or none showed it before."""
        return self.unchanged or (self.before is not None and self.before[0] == 0)


@dataclass(frozen=True, slots=True)
class ConceptStates:
    """What became of all concepts of a run, in the manifest's order."""

    states: Sequence[ConceptState] = field(default_factory=tuple)

    @property
    def not_checked(self) -> tuple[str, ...]:
        """Names of the concepts whose masks no scorer has checked."""
        return tuple(each.name for each in self.states if each.has_mask and not each.checked)

    @property
    def never_there(self) -> tuple[str, ...]:
        """Names of the concepts that were never there."""
        return tuple(each.name for each in self.states if each.never_there)

    @property
    def checked(self) -> int:
        """How many masks a scorer has checked."""
        return sum(each.has_mask and each.checked for each in self.states)

    def lines(self) -> Iterator[str]:
        """What "done" means here, and, on a second line, the concepts that were never there."""
        masks = sum(each.has_mask for each in self.states)
        yield (
            f"{masks} of {len(self.states)} have a mask; effect checked for {self.checked}, "
            f"not for {len(self.not_checked)}"
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
        """Write or replace the record."""
        content = {"format": FORMAT, "concepts": [asdict(each) for each in self.states]}
        store.write_run_file(run, FILE, canonical_json(content).encode())

    @classmethod
    def read(cls, store: Store, run: str) -> "ConceptStates | None":
        """The record; None if there is none, or a later version wrote it.

        Raises:
            StoreError: it is damaged.
        """
        data = store.read_run_file(run, FILE)
        if data is None:
            return None
        with told_if_damaged(store, run, FILE):
            content = json_object(data)
            if is_later(content, FORMAT):
                return None
            return cls(tuple(_state(each, run) for each in read_field(content, "concepts", list)))


def _state(content: Any, run: str) -> ConceptState:
    """The state of a run's concept; raises an error if `content` is not what `write` writes."""
    state: Mapping[str, Any] = read_field({"": content}, "", dict)
    return ConceptState(
        name=read_field(state, "name", str),
        has_mask=state.get("has_mask") is True,
        unchanged=state.get("unchanged") is True,
        scorer=read_field(state, "scorer", str, "") or None,
        metric=read_field(state, "metric", str, "") or None,
        before=_images(state.get("before")),
        after=_images(state.get("after")),
        first=_when_made(state.get("first"), run),
        last=_when_made(state.get("last"), run),
    )


def _images(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    hits, number = value
    both = {"hits": hits, "images": number}
    return count_field(both, "hits"), count_field(both, "images")


def _when_made(value: Any, run: str) -> Made | None:
    if value is None:
        return None
    made: Mapping[str, Any] = read_field({"": value}, "", dict)
    job = read_field(made, "job", str, "") or None
    return Made(
        at=time_field(made, "at"),
        # The first versions named jobs of the same run only.
        run=read_field(made, "run", str, "") or (run if job else None),
        job=job,
        mask=read_field(made, "mask", str),
    )
