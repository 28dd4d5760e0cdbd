"""The kinds of units that compare settings: a concept under several of them, and their table."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from conceptprune.digest import unit_key
from conceptprune.manifest import Pruning, SelectorName
from conceptprune.units.unit import Need, Unit
from conceptprune.units.units import MaskUnit

if TYPE_CHECKING:
    from conceptprune.units.sizes import Sizes


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepUnit(Unit):
    """Select one concept's weights under several settings, and report how many and which."""

    title = "Sweeps"

    mask: MaskUnit
    """The concept's mask under the manifest's own settings, for comparison."""
    settings: tuple[Pruning, ...]
    """At least one, all of one selector."""

    @property
    def selector(self) -> SelectorName:
        """The selector of all of the settings."""
        return self.settings[0].selector

    @property
    def key(self) -> str:
        """Identity: the mask to compare with, and the settings."""
        settings = [setting.selection for setting in self.settings]
        return unit_key(
            {
                "kind": "sweep",
                "mask": self.mask.key,
                "selector": self.selector,
                "settings": settings,
            }
        )

    @property
    def needs(self) -> tuple[Need, ...]:
        """The mask, and what the mask itself needs."""
        return ((MaskUnit.kind, self.mask.key), *self.mask.needs)

    @property
    def detail(self) -> str:
        """The selector, and how many settings."""
        return f"{self.selector}, {len(self.settings)} settings"

    def bytes_written(self, sizes: "Sizes", units: Mapping[str, Unit]) -> int:
        """One row per setting and layer."""
        return sizes.sweep(len(self.settings))


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepTableUnit(Unit):
    """Put the rows of all concepts and settings into one table."""

    sweeps: tuple[str, ...]

    @property
    def key(self) -> str:
        """Identity: the parts, in order."""
        return unit_key({"kind": "sweep-table", "sweeps": list(self.sweeps)})

    @property
    def needs(self) -> tuple[Need, ...]:
        """Every part."""
        return tuple((SweepUnit.kind, key) for key in self.sweeps)

    def bytes_written(self, sizes: "Sizes", units: Mapping[str, Unit]) -> int:
        """All parts together."""
        return sum(units[key].bytes_written(sizes, units) for key in self.sweeps)
