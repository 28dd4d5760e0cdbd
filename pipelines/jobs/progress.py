"""How a job shows its progress: a bar on a terminal, an occasional plain line elsewhere."""

import time
from collections.abc import Mapping, Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from conceptprune.units.unit import Unit
from conceptprune.units.unit_plan import UnitPlan

from ..scheduling.loop import Result

SECONDS_BETWEEN_LINES = 10.0


class JobProgress:
    """Counts units, denoiser evaluations, and what a job is for (such as concepts)."""

    def __init__(
        self, console: Console, plan: UnitPlan, units: Sequence[Unit], parts: str = "concepts"
    ) -> None:
        self._console = console
        self._parts = parts
        self._total_units = len(units)
        self._evaluations = {unit.key: unit.evaluations for unit in units}
        self._total_evaluations = sum(self._evaluations.values())
        self._names = plan.labels
        self._waiting = _units_by_concept(self._names, units)
        self._total_concepts = len({name for names in self._names.values() for name in names})
        self._units_done = 0
        self._done_evaluations = 0
        self._failed = 0
        self._blocked = 0
        self._started = time.monotonic()
        self._last_line = self._started
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> "JobProgress":
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn(f"[bold]{self._parts}"),
                BarColumn(),
                TextColumn("{task.description}", markup=False),
                TimeElapsedColumn(),
                console=self._console,
            )
            self._task = self._bar.add_task(self._text(), total=max(1, self._total_evaluations))
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()
        else:
            self._console.print(self._text(), markup=False, highlight=False)

    def advance(self, result: Result) -> None:
        """Count a unit's result."""
        key = result.unit.key
        if key not in self._evaluations:
            # It was committed before, found lost, and computed again.
            self._evaluations[key] = result.unit.evaluations
            self._total_evaluations += self._evaluations[key]
            self._total_units += 1
        if result.error is not None:
            # No progress: its evaluations will not be made, and its concepts stay undone.
            self._failed += result.status == "failed"
            self._blocked += result.status == "blocked"
            self._total_evaluations -= self._evaluations[key]
            self._tell()
            return
        self._units_done += 1
        self._done_evaluations += self._evaluations[key]
        for name in self._names.get(key, ()):
            waiting = self._waiting.get(name, set())
            waiting.discard(key)
            if not waiting:
                # Already removed if this unit was lost after its concept was done.
                self._waiting.pop(name, None)
        self._tell()

    def _tell(self) -> None:
        """Move the bar, or print a line if the last one was a while ago."""
        if self._bar and self._task is not None:
            self._bar.update(
                self._task,
                completed=self._done_evaluations,
                total=max(1, self._total_evaluations),
                description=self._text(),
            )
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self._console.print(self._text(), markup=False, highlight=False)

    def _text(self) -> str:
        seconds = time.monotonic() - self._started
        rate = self._done_evaluations / seconds if seconds > 0 else 0.0
        left = self._total_evaluations - self._done_evaluations
        parts = [
            f"{self._total_concepts - len(self._waiting)}/{self._total_concepts} {self._parts}",
            f"{self._units_done}/{self._total_units} units",
            f"{rate:.0f} evaluations/s",
        ]
        if rate and left:
            parts.append(f"about {left / rate:.0f} s left")
        for count, word in ((self._failed, "failed"), (self._blocked, "blocked")):
            if count:
                parts.append(f"{count} {word}")
        return ", ".join(parts)


def _units_by_concept(
    concepts: Mapping[str, tuple[str, ...]], units: Sequence[Unit]
) -> dict[str, set[str]]:
    todo = {unit.key for unit in units}
    waiting: dict[str, set[str]] = {}
    for key, names in concepts.items():
        if key in todo:
            for name in names:
                waiting.setdefault(name, set()).add(key)
    return waiting
