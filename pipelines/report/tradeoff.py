"""The trade-off plot: what should go against what should stay, one mark per checkpoint."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import log2
from typing import Literal

from .accuracy import Rate

WIDTH, HEIGHT = 720, 460
LEFT, RIGHT, TOP, BOTTOM = 72, 32, 52, 72
"""The frame's margins in pixels, with room for labels and for marks on the border."""
TICKS = 5
RADIUS = 6.0

Shape = Literal["circle", "square", "diamond", "triangle", "cross"]
SHAPES: Mapping[str, Shape] = {
    "base": "square",
    "mask": "circle",
    "fused": "diamond",
    "reworded": "diamond",
    "delta": "triangle",
    "folder": "cross",
}
"""Shapes by what a mark stands for; shape and colour carry the same information."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A value with its 95 % interval, if it has one."""

    value: float
    low: float | None
    high: float | None
    n: int

    @classmethod
    def of(cls, rate: Rate) -> "Number":
        """A rate with Wilson's interval."""
        low, high = rate.interval
        return cls(value=rate.share, low=low, high=high, n=rate.n)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A checkpoint with its two numbers."""

    label: str
    source: str
    href: str
    erased: Number
    retained: Number


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """The meaning of the two axes, and how to format their numbers."""

    erased: str
    retained: str
    is_share: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Points at one position of the plot, in pixels; several points show their widest intervals."""

    x: float
    y: float
    radius: float
    """Grows with the number of points."""
    shape: Shape
    source: str
    across: tuple[float, float] | None
    """(from x, to x) of the interval."""
    up: tuple[float, float] | None
    href: str
    points: tuple[Point, ...]

    @property
    def label(self) -> tuple[float, float, str]:
        """(x, y, anchor) of the label with the number of points, inside the frame."""
        side = -1 if self.x > WIDTH / 2 else 1
        away = 0.75 * self.radius + 3
        down = -away if self.y > HEIGHT / 2 else away + 10
        return self.x + side * away, self.y + down, "end" if side < 0 else "start"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """A line of the grid and its number."""

    at: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TradeOff:
    """Everything that is drawn, and the points for the table next to it."""

    axes: Axes
    marks: tuple[Mark, ...]
    columns: tuple[Tick, ...]
    lines: tuple[Tick, ...]
    sources: tuple[tuple[str, Shape], ...]
    points: tuple[Point, ...]
    size: tuple[int, int] = (WIDTH, HEIGHT)
    frame: tuple[int, int, int, int] = (LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM)
    """(left, top, right, bottom)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scale:
    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, is_share: bool) -> tuple[Tick, ...]:
        values = [self.low + (self.high - self.low) * i / TICKS for i in range(TICKS + 1)]
        return tuple(
            Tick(at=self(value), text=f"{100 * value:.0f}" if is_share else f"{value:.3g}")
            for value in values
        )


def trade_off(points: Sequence[Point], axes: Axes, *, crowd: str) -> TradeOff | None:
    """Lay out a plot; overlapping marks become one, which links to `crowd`."""
    if not points:
        return None
    across = _scale([point.erased for point in points], axes, LEFT, WIDTH - RIGHT)
    up = _scale([point.retained for point in points], axes, HEIGHT - BOTTOM, TOP)
    places: dict[tuple[float, float, str], list[Point]] = {}
    for point in points:
        place = (across(point.erased.value), up(point.retained.value), point.source)
        places.setdefault(place, []).append(point)
    # Merged marks first, so that single ones are drawn over them.
    marks = [
        Mark(
            x=x,
            y=y,
            radius=round(RADIUS + 1.4 * log2(len(together)), 1),
            shape=SHAPES.get(source, "cross"),
            source=source,
            across=_span([point.erased for point in together], across),
            up=_span([point.retained for point in together], up),
            href=together[0].href if len(together) == 1 else crowd,
            points=tuple(together),
        )
        for (x, y, source), together in places.items()
    ]
    sources = dict.fromkeys(point.source for point in points)
    return TradeOff(
        axes=axes,
        marks=tuple(sorted(marks, key=lambda mark: -len(mark.points))),
        columns=across.ticks(axes.is_share),
        lines=up.ticks(axes.is_share),
        sources=tuple((source, SHAPES.get(source, "cross")) for source in sources),
        points=tuple(points),
    )


def _scale(numbers: Iterable[Number], axes: Axes, start: float, end: float) -> _Scale:
    if axes.is_share:
        return _Scale(low=0.0, high=1.0, start=start, end=end)
    ends = [
        end
        for number in numbers
        for end in (number.value, number.low, number.high)
        if end is not None
    ]
    # A single value still needs an axis.
    spare = 0.05 * (max(ends) - min(ends)) or abs(max(ends)) or 1.0
    return _Scale(low=min(ends) - spare, high=max(ends) + spare, start=start, end=end)


def _span(numbers: Iterable[Number], scale: _Scale) -> tuple[float, float] | None:
    known = [number for number in numbers if number.low is not None and number.high is not None]
    if not known:
        return None
    low = min(number.low for number in known if number.low is not None)
    high = max(number.high for number in known if number.high is not None)
    return scale(low), scale(high)
