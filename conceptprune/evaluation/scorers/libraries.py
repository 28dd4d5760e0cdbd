"""The libraries that a scorer uses: whether they are installed, and in which versions."""

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from conceptprune.errors import UserError

INSTALL = "pip install 'conceptprune[evaluate]'"


def versions_of(*distributions: str) -> dict[str, str]:
    """Installed version by distribution name; packages that are not installed are left out."""
    found = {}
    for name in distributions:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def require(module: str, scorer: str, install: str = INSTALL) -> None:
    """Check that a module can be imported.

    Raises:
        UserError: it cannot; the message names the scorer and says what to install.
    """
    if find_spec(module) is None:
        raise UserError(f"scorers: {scorer} needs the package {module}, not here: {install}")
