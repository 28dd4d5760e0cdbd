"""Versions of the libraries that decide results, for provenance."""

from functools import cache
from importlib.metadata import version

LIBRARIES = ("conceptprune", "torch", "diffusers", "transformers", "numpy")


@cache
def versions() -> dict[str, str]:
    """Installed version by distribution name."""
    return {name: version(name) for name in LIBRARIES}
