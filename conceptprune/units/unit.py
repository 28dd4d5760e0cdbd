"""What every unit of work is: one piece of a job, known by its key before anything runs.

A unit's key is the digest of everything that decides its result and of nothing else, so the plan of
a job is known before it runs, equal work is shared, and a rerun subtracts what the store has.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from conceptprune.units.sizes import Sizes

Need = tuple[str, str]
"""(kind, key) of a unit that must be committed first."""

APPLIED = "edit"
"""What a commit calls an object that its unit applied and did not make: kept as long as it is."""

_CLASSES: "dict[str, type[Unit]]" = {}


class Unit:
    """One piece of work, which leaves objects and a commit record in the store.

    A kind of unit is a frozen dataclass that derives from this class, with a field or a property
    `key`. Whatever else is true of the kind stands on its class, here by default; nothing else
    lists the kinds there are.
    """

    __slots__ = ()

    kind: ClassVar[str]
    """The class's name in kebab case without "Unit": that of `FusedMaskUnit` is "fused-mask"."""
    former_kinds: ClassVar[tuple[str, ...]] = ()
    """What earlier versions called it: the store may have its records under these names."""
    title: ClassVar[str]
    """Its name in a report; by default the kind's."""
    warm: ClassVar[bool] = False
    """It runs a network (a denoiser, a scorer, a language model), so it goes to a worker that keeps
    its networks loaded."""
    intermediate: ClassVar[bool] = False
    """Its result is only needed by other units: it is not computed where those are committed."""

    def __init_subclass__(cls) -> None:
        words = re.findall("[A-Z][^A-Z]*", cls.__name__.removesuffix("Unit"))
        cls.kind = "-".join(words).lower()
        if "title" not in cls.__dict__:
            cls.title = " ".join(words).capitalize()
        known = _CLASSES.get(cls.kind)
        # A dataclass with slots is made twice, under one name.
        if known and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise TypeError(f"{known} and {cls} are both units of the kind {cls.kind}")
        _CLASSES[cls.kind] = cls

    if TYPE_CHECKING:
        # Not at runtime, where a dataclass would take it for the default of its field `key`.
        @property
        def key(self) -> str:
            """Digest of everything that decides the result."""

    @property
    def needs(self) -> tuple[Need, ...]:
        """Units that must be committed first."""
        return ()

    @property
    def detail(self) -> str:
        """What it is about, in a few words beside its kind, as the ledger shows it."""
        return ""

    @property
    def applies(self) -> tuple[str, ...]:
        """Paths of objects that it applies and no unit made, such as the mask of an evaluation."""
        return ()

    @property
    def mask_key(self) -> str | None:
        """Key of the mask that it makes or applies; None where there is none."""
        return None

    @property
    def evaluations(self) -> int:
        """Denoiser evaluations it costs: prompts x guidance branches x calls; 0 if not known."""
        return 0

    def bytes_written(self, sizes: "Sizes", units: "Mapping[str, Unit]") -> int:
        """Bytes of its own objects, about; `units` are those of its plan by key. 0 if not known."""
        return 0

    def bytes_shared(self, sizes: "Sizes") -> int:
        """Bytes of objects that all such units of a plan write alike, so that they count once."""
        return 0


def class_of(kind: str) -> type[Unit] | None:
    """The class of a kind of unit, as records name it; None where no module loaded has it."""
    return _CLASSES.get(kind)


def kinds_of(kind: str) -> tuple[str, ...]:
    """A kind and its former names: under any of these the store may have a record of it."""
    known = class_of(kind)
    return (kind, *known.former_kinds) if known else (kind,)
