"""The cases of `python -m benchmarks [CASE ...]`: speed, memory and size on this machine."""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console

from benchmarks import (
    families,
    loading,
    memory,
    overhead,
    page,
    results,
    resume,
    scale,
    selection,
    speed,
)
from benchmarks.results import Measurement

CASES: dict[str, Callable[[], list[Measurement]]] = {
    "speed-studio": speed.run_studio,
    "speed-compute-bound": speed.run_compute_bound,
    "overhead": overhead.run,
    "families": families.run,
    "loading": loading.run,
    "selection": selection.run,
    "memory": memory.run,
    "scale": scale.run,
    "resume": resume.run,
    "page": page.run,
}
RESULTS = Path(__file__).parent / "results.json"


def main() -> None:
    """Run the cases named on the command line, all of them by default."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"all of: {', '.join(CASES)}")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where to write the numbers")
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        help="of each side of a comparison; more than one need as many idle cores",
    )
    arguments = parser.parse_args()
    if arguments.threads < 1:
        parser.error("--threads must be at least 1")
    unknown = sorted(set(arguments.cases) - CASES.keys())
    if unknown:
        parser.error(f"no case {', '.join(unknown)}; there are: {', '.join(CASES)}")

    torch.set_num_threads(arguments.threads)
    console = Console()
    measured = {}
    for name in arguments.cases or CASES:
        console.print(f"{name} ...", highlight=False)
        measured[name] = CASES[name]()
        results.write(arguments.out, {name: measured[name]})
    console.print(results.table(measured))
    console.print(f"written to {arguments.out}", highlight=False)
