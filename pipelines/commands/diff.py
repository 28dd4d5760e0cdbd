"""`conceptprune diff`: what a manifest erases that an earlier one did not, and its cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.filesize import decimal

from conceptprune.units.plan import Plan
from conceptprune.units.unit import Unit

from ..console.logs import one_line, say
from ..jobs.preparation import Prepared, plan_here, prepare
from ..jobs.sizes import sizes_of

SHOWN = 12
"""Names per category shown in the text; the JSON has all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Two manifests side by side; names are in the order of the manifests."""

    added: tuple[str, ...]
    dropped: tuple[str, ...]
    kept: tuple[str, ...]
    """Concepts with the same mask in both."""
    redone: tuple[str, ...]
    """Concepts in both, but with another mask: the model, the prompts or the settings differ."""
    units: int
    """Units that the new one computes and the old one did not."""
    evaluations: int
    """Denoiser evaluations of these units."""
    bytes_written: int
    all_evaluations: int
    """Denoiser evaluations of the new one on an empty store."""

    @classmethod
    def of(cls, old: Prepared, new: Prepared) -> "Difference":
        """The difference of two checked manifests, from their plans; nothing is computed."""
        plans = (plan_here(old), plan_here(new))
        before, after = (
            {each.concept.name: each.mask.key for each in plan.concepts} for plan in plans
        )
        known = _units(old, plans[0])
        units = _units(new, plans[1])
        fresh = [unit for key, unit in units.items() if key not in known]
        both = [name for name in after if name in before]
        return cls(
            added=tuple(name for name in after if name not in before),
            dropped=tuple(name for name in before if name not in after),
            kept=tuple(name for name in both if after[name] == before[name]),
            redone=tuple(name for name in both if after[name] != before[name]),
            units=len(fresh),
            evaluations=sum(unit.evaluations for unit in fresh),
            bytes_written=sizes_of(new).total(fresh, units),
            all_evaluations=sum(unit.evaluations for unit in units.values()),
        )

    def as_json(self) -> dict[str, Any]:
        """The document of `--json`."""
        return {
            "format": "conceptprune.diff/1",
            "added": list(self.added),
            "dropped": list(self.dropped),
            "kept": list(self.kept),
            "redone": list(self.redone),
            "units": self.units,
            "evaluations": self.evaluations,
            "bytes": self.bytes_written,
            "all_evaluations": self.all_evaluations,
        }


def _units(prepared: Prepared, plan: Plan) -> dict[str, Unit]:
    return {unit.key: unit for unit in (*prepared.prompts_units(), *plan.units())}


def difference(old: Path, new: Path) -> Difference:
    """The difference of two manifests.

    Raises:
        UserError: one of them is wrong, or its model does not exist.
    """
    return Difference.of(prepare(old), prepare(new))


def show_difference(found: Difference, console: Console) -> None:
    """Print it: one line per category of concepts, and one for the cost."""
    say(console, f"added    {_names(found.added)}")
    say(console, f"dropped  {_names(found.dropped)}")
    say(console, f"kept     {_names(found.kept)}")
    if found.redone:
        say(console, f"redone   {_names(found.redone)}: their model, prompts or settings differ")
    say(
        console,
        f"cost     {found.units:,} units and {found.evaluations:,} denoiser evaluations, of "
        f"{found.all_evaluations:,} on an empty store; {decimal(found.bytes_written)} written",
    )


def _names(names: Sequence[str]) -> str:
    if not names:
        return "0"
    shown = one_line(", ".join(names[:SHOWN]))
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names):,}: {shown}{more}"
