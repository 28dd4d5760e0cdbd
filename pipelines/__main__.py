"""The command `conceptprune`, also `python -m conceptprune_pipelines`: check that its requirements
are installed.

The library alone also installs the command, because a script cannot belong to an extra.
"""

import sys
from importlib.util import find_spec

from .console import exits

NEEDED = ("ray", "typer", "rich", "pathspec")
"""Packages of the extra `batch`, which the library does not need."""


def main(arguments: list[str] | None = None) -> None:
    """Run a command; without the extra `batch`, print in one line how to install it, and exit 2."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        print(
            f"error: the library is installed, and its commands need {', '.join(missing)} too: "
            "pip install 'conceptprune[batch]'",
            file=sys.stderr,
        )
        sys.exit(exits.BAD_INPUT)
    from .cli import main as run

    run(arguments)


if __name__ == "__main__":
    main()
