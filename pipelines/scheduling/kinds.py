"""Every kind of unit there is, for those who have only the name of one from a record.

Importing this loads the classes, which are known by name from then on; none of it imports torch.
"""

import conceptprune.attacks.units
import conceptprune.evaluation.units
import conceptprune.units.units  # noqa: F401
from conceptprune.units.unit import class_of, kinds_of

__all__ = ["class_of", "is_intermediate", "kinds_of", "title_of"]


def is_intermediate(kind: str) -> bool:
    """Whether units of a kind are done only for those that need them; False if it is unknown."""
    known = class_of(kind)
    return known is not None and known.intermediate


def title_of(kind: str) -> str:
    """What a kind is called in a report."""
    known = class_of(kind)
    return known.title if known else kind.replace("-", " ").capitalize()
