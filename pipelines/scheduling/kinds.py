"""All kinds of units, for code that only has a kind's name from a record.

Importing this module registers the classes by name, without importing torch.
"""

import conceptprune.attacks.units
import conceptprune.evaluation.units
import conceptprune.units.reword_units
import conceptprune.units.sweep_units
import conceptprune.units.units  # noqa: F401
from conceptprune.units.unit import class_of, kinds_of

__all__ = ["class_of", "is_intermediate", "kinds_of", "title_of"]


def is_intermediate(kind: str) -> bool:
    """Whether units of a kind are only computed for others that need them; False if unknown."""
    known = class_of(kind)
    return known is not None and known.intermediate


def title_of(kind: str) -> str:
    """The title of a kind in a report."""
    known = class_of(kind)
    return known.title if known else kind.replace("-", " ").capitalize()
