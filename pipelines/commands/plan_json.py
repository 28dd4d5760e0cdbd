"""`conceptprune plan --json`: what a manifest costs, for programs."""

from collections.abc import Mapping, Sequence
from typing import Any

from conceptprune.units.plan import Plan
from conceptprune.units.sizes import Sizes
from conceptprune.units.unit import Unit

FORMAT = "conceptprune.plan/1"


def plan_document(
    plan: Plan, units: Sequence[Unit], left: Sequence[Unit], sizes: Sizes
) -> dict[str, Any]:
    """Units, denoiser evaluations and estimated bytes: of all, and of what is `left` to do."""
    known = {unit.key: unit for unit in units}
    kinds = dict.fromkeys(unit.kind for unit in units)
    return {
        "format": FORMAT,
        "run": plan.run,
        "concepts": [each.concept.name for each in plan.concepts],
        "all": _cost(units, known, sizes),
        "left": _cost(left, known, sizes),
        "kinds": {
            kind: {
                "all": _cost([unit for unit in units if unit.kind == kind], known, sizes),
                "left": _cost([unit for unit in left if unit.kind == kind], known, sizes),
            }
            for kind in kinds
        },
        "estimate": None,
    }


def _cost(units: Sequence[Unit], known: Mapping[str, Unit], sizes: Sizes) -> dict[str, int]:
    return {
        "units": len(units),
        "evaluations": sum(unit.evaluations for unit in units),
        "bytes": sizes.total(list(units), known),
    }
