"""Fresh environments with a wheel in them and exactly what it requires, without a network.

What it requires is linked from the environment that runs the tests, distribution by distribution.
"""

import csv
import os
import subprocess
import sys
import sysconfig
from collections.abc import Collection, Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def build_wheel(folder: Path, out: Path) -> Path:
    """The wheel of the project in `folder`."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(out)]
    subprocess.run([*pip, "wheel", *options, str(folder)], check=True)
    (wheel,) = out.glob("*.whl")
    return wheel


def environment_with(
    wheel: Path, folder: Path, *extras: str, without: Collection[str] = ()
) -> Path:
    """The folder of programs of a new environment, as after `pip install WHEEL[EXTRAS]`.

    Distributions `without` are left out, even where another one brings them.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    install = ["install", "--no-deps", "--no-index", "--no-compile", str(wheel)]
    # A folder in PYTHONPATH in which the project is installed would be found there, too.
    own_path = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([*pip, "--python", str(python), *install], check=True, env=own_path)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = folder / "lib" / version / "site-packages"
    (own,) = Distribution.discover(name="conceptprune", path=[str(site)])
    source = Path(sysconfig.get_paths()["purelib"])
    required = [needed for needed in _required(own, extras) if needed.name not in without]
    for name in sorted({name for needed in required for name in _top_level(needed)}):
        (site / name).symlink_to(source / name)
    return folder / "bin"


def _required(root: Distribution, extras: tuple[str, ...]) -> Iterator[Distribution]:
    """All that a distribution requires with these extras, directly or not; not itself."""
    pending = [(root, frozenset(extras))]
    # By name: the same distribution is found more than once.
    seen: set[tuple[str, frozenset[str]]] = set()
    while pending:
        needing, wanted = pending.pop()
        for line in needing.requires or ():
            requirement = Requirement(line)
            marker = requirement.marker
            if marker and not any(marker.evaluate({"extra": extra}) for extra in wanted | {""}):
                continue
            name, wants = canonicalize_name(requirement.name), frozenset(requirement.extras)
            if (name, wants) not in seen:
                seen.add((name, wants))
                needed = distribution(name)
                pending.append((needed, wants))
                yield needed


def _top_level(installed: Distribution) -> set[str]:
    """Names in site-packages that belong to a distribution."""
    # Not by `Distribution.files`, which makes an object of each of ten thousands of files.
    rows = csv.reader((installed.read_text("RECORD") or "").splitlines())
    return {row[0].partition("/")[0] for row in rows} - {"..", "__pycache__"}
