"""A unit of work: one piece of a job, whose key is known before anything runs.

A unit's key is the digest of exactly what decides its result. So the plan of a job is known before
it runs, equal work is shared, and a rerun only does what the store lacks.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from conceptprune.units.sizes import Sizes

Need = tuple[str, str]
"""(kind, key) of a unit that must be committed first."""

APPLIED = "edit"
"""Role, in a commit, of an object that the unit applied but did not make; kept with the commit."""

_CLASSES: "dict[str, type[Unit]]" = {}


class Unit:
    """One piece of work, which leaves objects and a commit record in the store.

    A kind of unit is a frozen dataclass that derives from this class, with a field or a property
    `key`. Everything else about a kind is on its class, with defaults here; there is no other list
    of kinds.
    """

    __slots__ = ()

    kind: ClassVar[str]
    """The class's name in kebab case without "Unit": that of `FusedMaskUnit` is "fused-mask"."""
    former_kinds: ClassVar[tuple[str, ...]] = ()
    """Names in earlier versions, under which the store may have records."""
    title: ClassVar[str]
    """Its name in a report; by default the kind's."""
    warm: ClassVar[bool] = False
    """True if it runs a network, such as a denoiser or a scorer. It then goes to a worker that
    keeps its networks loaded."""
    intermediate: ClassVar[bool] = False
    """True if only other units need its result: it is not computed if those are committed."""

    def __init_subclass__(cls) -> None:
        words = re.findall("[A-Z][^A-Z]*", cls.__name__.removesuffix("Unit"))
        cls.kind = "-".join(words).lower()
        if "title" not in cls.__dict__:
            cls.title = " ".join(words).capitalize()
        known = _CLASSES.get(cls.kind)
        # A dataclass with slots creates its class twice, under one name.
        if known and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise TypeError(f"{known} and {cls} are both units of the kind {cls.kind}")
        _CLASSES[cls.kind] = cls

    if TYPE_CHECKING:
        # Not at runtime, where a dataclass would use it as the default of its field `key`.
        @property
        def key(self) -> str:
            """Digest of everything that decides the result."""

    @property
    def needs(self) -> tuple[Need, ...]:
        """Units that must be committed first."""
        return ()

    @property
    def detail(self) -> str:
        """A few words on what it is about, shown next to its kind in the ledger."""
        return ""

    @property
    def applies(self) -> tuple[str, ...]:
        """Paths of objects that it applies but no unit made, such as the mask of an evaluation."""
        return ()

    @property
    def mask_key(self) -> str | None:
        """Key of the mask that it makes or applies; None if there is none."""
        return None

    @property
    def evaluations(self) -> int:
        """Denoiser evaluations it costs: prompts x guidance branches x calls; 0 if not known."""
        return 0

    def bytes_written(self, sizes: "Sizes", units: "Mapping[str, Unit]") -> int:
        """Approximate bytes of its own objects, 0 if unknown; `units` are the plan's by key."""
        return 0

    def bytes_shared(self, sizes: "Sizes") -> int:
        """Bytes of objects that all such units of a plan share, so that they count once."""
        return 0


def class_of(kind: str) -> type[Unit] | None:
    """The class of a kind of unit, by its name in records; None if no loaded module defines it."""
    return _CLASSES.get(kind)


def kinds_of(kind: str) -> tuple[str, ...]:
    """A kind and its former names; the store may have records under any of them."""
    known = class_of(kind)
    return (kind, *known.former_kinds) if known else (kind,)
