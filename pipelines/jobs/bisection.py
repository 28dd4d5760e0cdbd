"""Finding the least of some strengths that is enough, with few measurements."""

from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class Bisection:
    """A search among `count` strengths, from the weakest on, for the first that is enough.

    If more strength never makes a rate larger, the answer is the weakest strength whose rate is at
    most `enough`, after at most `ceil(log2(count + 1))` measurements. If that does not hold, it is
    still one that was measured, and found to be enough.
    """

    count: int
    enough: float
    rates: dict[int, float] = field(default_factory=dict)
    """What was measured, by the strength's index."""
    _first: int = 0
    _end: int = -1

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError("nothing to choose from")
        self._end = self.count

    @property
    def next(self) -> int | None:
        """The index of the strength to measure now; None once the answer is known."""
        return (self._first + self._end) // 2 if self._first < self._end else None

    def measured(self, rate: float) -> None:
        """Go on with the rate at `next`.

        Raises:
            ValueError: the answer is known already.
        """
        index = self.next
        if index is None:
            raise ValueError("nothing is left to measure")
        self.rates[index] = rate
        if rate <= self.enough:
            self._end = index
        else:
            self._first = index + 1

    @property
    def found(self) -> int | None:
        """The index of the answer; None while it is not known, or if no strength was enough."""
        return self._end if self.next is None and self._end < self.count else None

    @property
    def furthest(self) -> int:
        """The answer, or else the index whose measured rate is the least, the weakest of several.

        Raises:
            ValueError: nothing was measured yet.
        """
        if self.found is not None:
            return self.found
        return min(self.rates, key=lambda index: (self.rates[index], index))
