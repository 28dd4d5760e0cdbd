"""A job's units done in this process, as with `compute.actors: 0`; chosen ones fail."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from conceptprune.errors import NumericalError
from conceptprune.manifest import Compute
from conceptprune.store import Store
from conceptprune.units.commit import Done, Held
from conceptprune.units.unit import Unit
from pipelines.jobs.run import OnResult, OnTick, RunUnits
from pipelines.jobs.run import unit_runner as product_s
from pipelines.scheduling.workers import RunnerSpec, UnitRunner

ERROR = "NumericalError: told to fail"

Failing = Callable[[Unit], bool]


@dataclass(frozen=True)
class _Spec:
    """Builds a runner, and is it: it does what another one does, but for units that fail."""

    of: RunnerSpec
    failing: Failing
    runner: UnitRunner | None = None

    @property
    def run_id(self) -> str:
        return self.of.run_id

    def build(self) -> UnitRunner:
        return replace(self, runner=self.of.build())

    def run_claimed(self, unit: Unit, /) -> Done | Held:
        assert self.runner
        if self.failing(unit):
            raise NumericalError("told to fail")
        return self.runner.run_claimed(unit)


def units_here(
    failing: Failing = lambda _: False,
) -> Callable[..., AbstractContextManager[RunUnits]]:
    """What stands for `unit_runner`: units of which `failing` holds fail, whatever the manifest
    says about actors.

    Units are in a folder of their own, as a worker on a cluster is.
    """

    @contextmanager
    def unit_runner(spec: RunnerSpec, compute: Compute, store: Store) -> Iterator[RunUnits]:
        alone = compute.model_copy(update={"actors": 0})
        with product_s(_Spec(spec, failing), alone, store) as run_units:

            def run(
                units: Sequence[Unit],
                known: Mapping[str, Unit],
                on_result: OnResult,
                on_tick: OnTick,
            ) -> None:
                here = Path.cwd()
                os.chdir("/")
                try:
                    run_units(units, known, on_result, on_tick)
                finally:
                    os.chdir(here)

            yield run

    return unit_runner
