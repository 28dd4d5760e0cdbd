"""Geometry of the heat map, so that the template only places what is computed here."""

from collections.abc import Iterator
from dataclasses import dataclass

from .where import HeatMap

LABEL_WIDTH = 82
HEADER_HEIGHT = 40
ROW_HEIGHT = 22
CELL_WIDTH = 36
NARROW_CELL_WIDTH = 16
MANY_CALLS = 16
GAP = 1
MASK_GAP = 14
BAR_WIDTH = 72
TOTAL_WIDTH = 52


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A rectangle: a cell of the map or a layer's bar; `heat` is its opacity, 0 to 1."""

    x: int
    y: int
    width: int
    heat: float
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """A text of the map, placed at its anchor."""

    x: int
    y: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatChart:
    """Everything that a map draws."""

    width: int
    height: int
    cell_height: int
    cells: tuple[Cell, ...]
    layers: tuple[Label, ...]
    calls: tuple[Label, ...]
    timesteps: tuple[Label, ...]
    mask_heading: Label
    totals: tuple[Label, ...]


def heat_chart(where: HeatMap, *, top: float) -> HeatChart:
    """Lay out a map; `top` is the share with the darkest colour."""
    num_calls = len(where.timesteps)
    cell = CELL_WIDTH if num_calls <= MANY_CALLS else NARROW_CELL_WIDTH
    mask_x = LABEL_WIDTH + num_calls * cell + (MASK_GAP if num_calls else 0)
    # Narrow columns have no room for one label each.
    labelled = range(0, num_calls, 1 if cell == CELL_WIDTH else 4)
    centres = [(call, LABEL_WIDTH + call * cell + cell // 2) for call in labelled]
    middles = [HEADER_HEIGHT + index * ROW_HEIGHT + 15 for index in range(len(where.rows))]
    return HeatChart(
        width=mask_x + BAR_WIDTH + TOTAL_WIDTH,
        height=HEADER_HEIGHT + len(where.rows) * ROW_HEIGHT,
        cell_height=ROW_HEIGHT - GAP,
        cells=tuple(_cells(where, cell, mask_x, top)),
        layers=tuple(
            Label(x=LABEL_WIDTH - 10, y=y, text=row.label)
            for y, row in zip(middles, where.rows, strict=True)
        ),
        calls=tuple(Label(x=x, y=14, text=str(call)) for call, x in centres),
        timesteps=tuple(
            Label(x=x, y=31, text=f"{where.timesteps[call]:.0f}") for call, x in centres
        ),
        mask_heading=Label(x=mask_x, y=14, text="whole mask"),
        totals=tuple(
            Label(
                x=mask_x + round(BAR_WIDTH * row.pruned / top) + 6 if top else mask_x,
                y=y,
                text=f"{100 * row.pruned:.2f} %",
            )
            for y, row in zip(middles, where.rows, strict=True)
        ),
    )


def _cells(where: HeatMap, cell: int, mask_x: int, top: float) -> Iterator[Cell]:
    for index, row in enumerate(where.rows):
        y = HEADER_HEIGHT + index * ROW_HEIGHT
        for call, share in enumerate(row.by_call):
            yield Cell(
                x=LABEL_WIDTH + call * cell,
                y=y,
                width=cell - GAP,
                heat=round(share / top, 3) if top else 0.0,
                title=f"{row.label}, call {call}: {100 * share:.2f} %",
            )
        yield Cell(
            x=mask_x,
            y=y,
            width=round(BAR_WIDTH * row.pruned / top) if top else 0,
            heat=1.0,
            title=f"{row.name}: {100 * row.pruned:.2f} % pruned",
        )
