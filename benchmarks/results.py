"""Measurements, the table they are shown in and the file they are kept in."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from rich.table import Table


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """One number, and the bound that was aimed for."""

    what: str
    value: float
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None
    note: str = ""

    @property
    def aim(self) -> str:
        """The bound as text; empty if there is none."""
        if self.at_most is not None:
            return f"<= {self.at_most:g} {self.unit}".strip()
        if self.at_least is not None:
            return f">= {self.at_least:g} {self.unit}".strip()
        return ""

    @property
    def met(self) -> bool | None:
        """Whether the aim is met; None if there is none."""
        if self.at_most is not None:
            return self.value <= self.at_most
        if self.at_least is not None:
            return self.value >= self.at_least
        return None


def table(results: Mapping[str, Sequence[Measurement]]) -> Table:
    """All measurements, by case."""
    shown = Table(title="conceptprune benchmarks", title_justify="left")
    for heading in ("case", "what"):
        shown.add_column(heading)
    for heading in ("value", "aim"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for heading in ("met", "note"):
        shown.add_column(heading)
    for case, measurements in results.items():
        for index, measurement in enumerate(measurements):
            met = {None: "", True: "[green]yes[/]", False: "[red]no[/]"}[measurement.met]
            shown.add_row(
                case if index == 0 else "",
                measurement.what,
                f"{measurement.value:.4g} {measurement.unit}".strip(),
                measurement.aim,
                met,
                measurement.note,
            )
        shown.add_section()
    return shown


def write(path: Path, results: Mapping[str, Sequence[Measurement]]) -> None:
    """Write the cases that were run; earlier results of other cases stay."""
    cases: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for case, measurements in results.items():
        cases[case] = {
            "machine": _machine(),
            "measurements": [
                {**asdict(measurement), "met": measurement.met} for measurement in measurements
            ],
        }
    path.write_text(json.dumps(cases, indent=2) + "\n")


def _machine() -> dict[str, Any]:
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
