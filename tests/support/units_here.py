"""A job's units done in this process, in the order of its graph, in the place of a cluster."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Literal

from conceptprune.units.commit import Done
from conceptprune.units.unit import Unit
from pipelines.jobs.run import OnResult, OnTick, RunUnits
from pipelines.scheduling.graph import Graph
from pipelines.scheduling.loop import Result, needs
from pipelines.scheduling.workers import RunnerSpec

Status = Literal["done", "reused"]
ERROR = "NumericalError: told to fail"


def units_here(
    failing: Callable[[Unit], bool] = lambda _: False,
) -> Callable[..., AbstractContextManager[RunUnits]]:
    """What stands for `unit_runner`: units of which `failing` holds fail, and block what follows.

    Results are told as `run_units` tells them; a worker is in a folder of its own, as on a cluster.
    """

    @contextmanager
    def unit_runner(spec: RunnerSpec, *_: object) -> Iterator[RunUnits]:
        def run(
            units: Sequence[Unit], _: Mapping[str, Unit], on_result: OnResult, _t: OnTick
        ) -> None:
            here = Path.cwd()
            os.chdir("/")
            try:
                runner = spec.build()
                graph = Graph.of(units)
                while graph.ready:
                    unit = graph.ready.popleft()
                    if failing(unit):
                        on_result(Result(unit=unit, status="failed", attempts=3, error=ERROR))
                        for each in graph.fail(unit):
                            why = needs(unit)
                            on_result(Result(unit=each, status="blocked", attempts=0, error=why))
                        continue
                    done = runner.run_claimed(unit)
                    assert isinstance(done, Done)
                    status: Status = "done" if done.computed else "reused"
                    on_result(Result(unit=unit, status=status, attempts=1, commit=done.commit))
                    graph.finish(unit)
            finally:
                os.chdir(here)

        yield run

    return unit_runner
