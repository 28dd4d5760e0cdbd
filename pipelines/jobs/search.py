"""The search for one strength: a concept's own, or that of the rewording of all."""

from dataclasses import dataclass, field
from math import ceil, log2

from .bisection import Bisection
from .judging import Judge, Measured, Seen
from .strengths import Subject
from .tuning import Found, Status, Tried


@dataclass(slots=True, kw_only=True)
class Search:
    """What was measured of a subject, and what to measure next."""

    subject: Subject
    bisection: Bisection
    measured: dict[int, Measured] = field(default_factory=dict)
    """By the strength's index."""
    untouched: Measured | None = None
    failed: bool = False
    """Whether something of it could not be computed."""

    @classmethod
    def of(cls, subject: Subject, gone: float) -> "Search":
        """A search for the first strength after which at most the share `gone` is seen."""
        return cls(subject=subject, bisection=Bisection(count=len(subject.strengths), enough=gone))

    @property
    def most(self) -> int:
        """How many measurements it takes at most."""
        return ceil(log2(len(self.subject.strengths) + 1))

    @property
    def latest(self) -> Seen | None:
        """What the last measurement saw; None before the first."""
        return (
            self.measured[next(reversed(self.measured))].seen(self.there) if self.measured else None
        )

    @property
    def there(self) -> tuple[str, ...]:
        """The concepts that are seen on the untouched model, and so can be seen to go."""
        if self.untouched is None:
            return self.subject.names
        return tuple(name for name in self.subject.names if self._is_there(name, self.untouched))

    @property
    def open(self) -> bool:
        """Whether there is something to measure."""
        return not self.failed and bool(self.there) and self.bisection.next is not None

    @property
    def strength(self) -> float | None:
        """What to measure now, or in the end what was found; None if there is no such thing."""
        if self.failed or not self.there:
            return None
        index = self.bisection.next
        return self.subject.strengths[self.bisection.furthest if index is None else index]

    def tell(self, untouched: Measured, now: Measured) -> None:
        """Go on with what was measured at `strength`; once that is found, it is not news."""
        self.untouched = untouched
        index = self.bisection.next
        if index is not None and self.there:
            self.measured[index] = now
            self.bisection.measured(now.seen(self.there).rate)

    def whole(self, hold: float) -> Found:
        """What was found for all concepts of a rewording together."""
        names, strength = self.there, self.strength
        tried = {index: self._tried(index, names) for index in sorted(self.measured)}
        return Found(
            name=self.subject.title,
            strength=strength,
            status=self._status(hold),
            judged=None,
            before=self._before(names),
            kept_before=None if self.untouched is None else self.untouched.kept,
            at=tried.get(self._index),
            tried=tuple(tried.values()),
            least=self._index == 0,
        )

    def of_concept(self, name: str, judge: Judge, hold: float) -> Found:
        """What was found for a concept; one that is reworded with others has no own strength."""
        tried = {index: self._tried(index, (name,)) for index in sorted(self.measured)}
        at = tried.get(self._index)
        status = self._status(hold)
        if self.subject.reworded and at:
            status = "gone" if at.after.rate <= self.bisection.enough else "recognised"
        if self.untouched and not self.failed and name not in self.there:
            status, at = "never-there", None
        how = judge.of[name]
        return Found(
            name=name,
            strength=None if self.subject.reworded else self.strength,
            status=status,
            judged=(how.scorer.title, how.metric),
            before=self._before((name,)),
            kept_before=None if self.untouched is None else self.untouched.kept,
            at=at,
            tried=tuple(tried.values()),
            least=self._index == 0 and not self.subject.reworded,
        )

    @property
    def _index(self) -> int:
        """Where what was found is among the strengths; -1 if nothing is."""
        if self.strength is None or not self.measured:
            return -1
        return self.bisection.furthest

    def _is_there(self, name: str, untouched: Measured) -> bool:
        return untouched.erased[name].rate > self.bisection.enough

    def _before(self, names: tuple[str, ...]) -> Seen | None:
        return None if self.untouched is None else self.untouched.seen(names)

    def _tried(self, index: int, names: tuple[str, ...]) -> Tried:
        now = self.measured[index]
        strength = self.subject.strengths[index]
        return Tried(strength=strength, after=now.seen(names), kept=now.kept)

    def _status(self, hold: float) -> Status:
        if self.failed or self.untouched is None:
            return "failed"
        if not self.there:
            return "never-there"
        if self.bisection.found is None:
            return "recognised"
        now = self.measured[self.bisection.found]
        return "gone" if now.holds(self.untouched, hold) else "harms"
