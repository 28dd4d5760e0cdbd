"""What became of each concept of a run: is there a mask, was its effect checked, and since when.

"Done" says that every unit has its result. That a mask is written does not say that it erases
anything: only scorers that looked at the images can tell, and only of what they ever saw there.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from conceptprune.digest import canonical_json
from conceptprune.store import Store

from ..console.names import some
from .fields import NUMBERS, is_later
from .fields import field as read_field
from .ledger import told_if_damaged

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
