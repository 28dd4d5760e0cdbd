"""Prints the lowest versions that pyproject.toml allows, for `make lower-bounds`, one a line.

Of what the library and the jobs need: torch is as installed, because a second copy of it is
gigabytes. With `--alone`, those that would bring torch along; with
`--newest`, for `make newest`, the bounds as they are, of which pip takes the highest there is.
"""

import re
import sys
import tomllib
from pathlib import Path

AS_INSTALLED = {"torch"}
BRINGS_TORCH = {"accelerate"}


def main() -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    alone = "--alone" in sys.argv
    sign = ">=" if "--newest" in sys.argv else "=="
    needed = {*project["dependencies"], *project["optional-dependencies"]["batch"]}
    for requirement in sorted(needed):
        found = re.fullmatch(r"([\w-]+)(\[\w+\])?>=([\w.]+)", requirement)
        if found is None:
            sys.exit(f"pyproject.toml: no lower bound in {requirement}")
        name, extra, version = found.groups(default="")
        if name not in AS_INSTALLED and (name in BRINGS_TORCH) == alone:
            print(f"{name}{extra}{sign}{version}")


if __name__ == "__main__":
    main()
