"""How well one driver keeps workers busy: units that sleep 250 ms, everything else as in a job.

What two cores can show: what the driver spends on a unit, whether that or its memory grows with the
number of units, and whether anything waits for anything but the processor. What they cannot show:
64 workers with a processor each. Here all workers, their raylets, the object store's disk and the
driver share two cores, and a unit costs its worker some milliseconds of them (Ray, claim, object,
commit). So the efficiency at 64 workers is a lower bound for machines with a core per worker, and
says nothing about networks, S3 or GPUs.
"""

import tempfile

from benchmarks.collector import SHARES, Point, measure
from benchmarks.process import in_own_bare_process
from benchmarks.results import Measurement

SECONDS = 0.25
WORKERS = (1, 2, 4, 8, 16, 32, 64)
MOST_UNITS = 20_000
UNITS_OF_A_WORKER = 100
"""Below 64 workers: 25 s per point, plus the time until all actors are up."""
RAYLETS = 4


def run() -> list[Measurement]:
    """1 to 64 workers on four raylets; 20,000 units at 64."""
    measured: list[Measurement] = []
    for workers in WORKERS:
        units = MOST_UNITS if workers == WORKERS[-1] else UNITS_OF_A_WORKER * workers
        measured += show(point(workers, units), at_least=90 if workers == WORKERS[-1] else None)
    return measured


def run_minimal() -> list[Measurement]:
    """One worker on one raylet for a few seconds, to see that it runs."""
    return show(point(1, 83, seconds=0.05, raylets=1), at_least=None)


def point(workers: int, units: int, *, seconds: float = SECONDS, raylets: int = RAYLETS) -> Point:
    """One number of workers, with a store in a local folder and a driver of its own."""
    with tempfile.TemporaryDirectory() as folder:
        return in_own_bare_process(
            measure, folder, workers=workers, units=units, seconds=seconds, raylets=raylets
        )


def show(point: Point, *, at_least: float | None) -> list[Measurement]:
    """A point's measurements; with an aim, also the driver's memory, its ledger and the tail."""
    nodes = " + ".join(map(str, point.actors_by_node))
    measured = [
        Measurement(
            what=f"{point.workers} workers: efficiency",
            value=100 * point.efficiency,
            unit="%",
            at_least=at_least,
            note=(
                f"{point.units:,} units, {point.tasks:,} of them tasks; actors by raylet {nodes}; "
                f"all up after {point.starting:.0f} s, then {point.wall:.0f} s; "
                f"load before {point.load:.1f}"
            ),
        ),
        Measurement(
            what=f"{point.workers} workers: driver's processor time a unit",
            value=point.overhead,
            unit="ms",
        ),
    ]
    if at_least is None:
        return measured
    growth = point.memory[-1] - point.memory[0]
    levels = ", ".join(
        f"{mib:.0f} at {share:.0%}" for mib, share in zip(point.memory, SHARES, strict=True)
    )
    return [
        *measured,
        Measurement(
            what=f"{point.workers} workers: driver's memory, growth over the run",
            value=growth,
            unit="MiB",
            note=f"MiB: {levels} of the units; their results are kept for the ledger",
        ),
        Measurement(
            what=f"{point.workers} workers: driver's loop held up by the ledger",
            value=100 * point.ledger,
            unit="%",
            note=f"one ledger is made and written in {point.ledger_seconds:.2f} s, beside the loop",
        ),
        Measurement(
            what=f"{point.workers} workers: reductions and masks after the last window",
            value=point.tail,
            unit="s",
        ),
    ]
