"""`python -m benchmarks gpu`: everything that is measured on a device, in one command."""

import argparse
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from benchmarks.gpu import correctness
from benchmarks.gpu.device import device_named, machine
from benchmarks.gpu.run import TINY, run
from benchmarks.gpu.settings import CALLS, DTYPES, PARTS, Settings
from benchmarks.gpu.table import table

SECONDS = {"cuda": 8, "cpu": 60}
"""For the loops of one batch size, by type of device."""
RESULTS = Path(__file__).parent / "results"


def main(arguments: Sequence[str]) -> int:
    """Measure and print the table; returns the exit code, 1 if anything was not as expected."""
    settings, out = _settings(arguments)
    results = run(settings, out)
    print(table(results))
    print(f"written to {out}")
    wrong = [*correctness.failures(results["correctness"]), *_failed("", results["models"])]
    for name in wrong:
        print(f"not as expected: {name}")
    return 1 if wrong else 0


def quiet() -> None:
    """Silence the libraries' progress bars and warnings, which would get between the lines."""
    for logging in (diffusers.utils.logging, transformers.utils.logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)


def _settings(arguments: Sequence[str]) -> tuple[Settings, Path]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu", description=__doc__)
    there = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=there, help="cuda or cpu (default: %(default)s)")
    parser.add_argument("--small", action="store_true", help="tiny stand-ins, to see that it runs")
    parser.add_argument("--models", default=",".join(TINY), help="default: %(default)s")
    parser.add_argument("--dtypes", help=f"some of {', '.join(DTYPES)}; the first for all models")
    parser.add_argument("--parts", default=",".join(PARTS), help="default: %(default)s")
    parser.add_argument("--calls", type=int, help=f"denoiser calls (default: {CALLS})")
    parser.add_argument("--most", type=int, help="prompts in the largest batch that is tried")
    parser.add_argument("--repeats", type=int, help="of each measurement")
    parser.add_argument("--minutes", type=float, default=10, help="default: %(default)g")
    parser.add_argument("--out", type=Path, help="default: results/ beside this program")
    given = parser.parse_args(arguments)
    if given.out is not None and (given.out.is_dir() or not given.out.parent.is_dir()):
        parser.error(f"--out: {given.out} is not the path of a file in a folder that there is")
    try:
        device = device_named(given.device)
    except ValueError as error:
        parser.error(str(error))
    on_card = device.type == "cuda"
    settings = Settings(
        device=device,
        small=given.small,
        models=_known(parser, "--models", given.models, TINY),
        dtypes=_known(
            parser,
            "--dtypes",
            given.dtypes or ("float16,bfloat16,float32" if on_card else "float32"),
            DTYPES,
        ),
        parts=_known(parser, "--parts", given.parts, PARTS),
        calls=given.calls or (2 if given.small else CALLS),
        most=given.most or (2 if given.small else 32 if on_card else 1),
        repeats=given.repeats or (3 if on_card else 1),
        seconds=SECONDS[device.type],
        minutes=given.minutes,
    )
    slug = re.sub(r"[^a-z0-9]+", "-", machine(device)["device"].lower()).strip("-")
    name = f"{slug}-small" if given.small else slug
    return settings, given.out or RESULTS / f"{name}.json"


def _known(parser: argparse.ArgumentParser, option: str, given: str, known: Any) -> tuple[str, ...]:
    names = tuple(given.split(","))
    for name in names:
        if name not in known:
            parser.error(f"{option}: there is no {name}; there are {', '.join(known)}")
    return names


def _failed(path: str, found: Any) -> list[str]:
    """Where something failed in the models' results; skipping for lack of time is no failure."""
    if not isinstance(found, dict):
        return []
    here = [f"{path}: {found['failed']}"] if "failed" in found else []
    here += [path] if found.get("restored") is False else []
    return here + [
        name for key, value in found.items() for name in _failed(f"{path} {key}".strip(), value)
    ]
