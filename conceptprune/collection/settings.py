"""What decides how statistics are collected; light to import."""

from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionSettings:
    """How statistics are collected; the defaults are the paper's."""

    steps: int = 50
    tau: int = 10
    """Only the first so many denoiser calls are run."""
    guidance: float = 7.5
    branches: Literal["both", "conditional"] = "both"
    """Which guidance branches are summed (both are always run)."""
    batch_size: int = 8
    site: str | tuple[str, ...] = "ffn_out"
    """One site or several, all from the same forward passes."""

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites' names."""
        return (self.site,) if isinstance(self.site, str) else self.site

    @property
    def provenance(self) -> dict[str, Any]:
        """The settings as mask files have them, where `branches` is called "halves"."""
        named = asdict(self)
        named["halves"] = named.pop("branches")
        return named


@dataclass(frozen=True, slots=True)
class Window:
    """Denoiser calls `start` (included) to `stop` (excluded)."""

    start: int
    stop: int
