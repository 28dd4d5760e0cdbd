"""Prints the lowest versions that pyproject.toml allows, for `make lower-bounds`, one a line.

Of the library's own dependencies: torch is as installed, because a second copy of it is gigabytes,
and what only the jobs need is left out. With `--alone`, those that would bring torch along; with
`--newest`, for `make newest`, the bounds as they are, of which pip takes the highest there is.
"""

import re
import sys
import tomllib
from pathlib import Path

AS_INSTALLED = {"torch", "ray", "typer", "rich", "pathspec", "s3fs"}
BRINGS_TORCH = {"accelerate"}


def main() -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    alone = "--alone" in sys.argv
    sign = ">=" if "--newest" in sys.argv else "=="
    for requirement in sorted(set(project["dependencies"])):
        found = re.fullmatch(r"([\w-]+)(\[\w+\])?>=([\w.]+)", requirement)
        if found is None:
            sys.exit(f"pyproject.toml: no lower bound in {requirement}")
        name, _, version = found.groups()
        if name not in AS_INSTALLED and (name in BRINGS_TORCH) == alone:
            print(f"{name}{sign}{version}")


if __name__ == "__main__":
    main()
