"""The commands of `cluster/*.md`: those that tests run, and those that say they were not run."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "cluster"
NOT_RUN = "# not run here"


def blocks() -> list[list[str]]:
    """Lines of every block of commands in every document."""
    return [
        block.splitlines()
        for path in sorted(FOLDER.glob("*.md"))
        for block in re.findall(r"```bash\n(.*?)```", path.read_text("utf-8"), flags=re.DOTALL)
    ]


def runnable() -> set[str]:
    """Commands that nothing excuses from being run; settings of the shell are none."""
    lines = {line for block in blocks() if block[0] != NOT_RUN for line in block}
    return {line for line in lines if not line.startswith("export ")}


def documented(start: str, **placeholders: str) -> list[str]:
    """The words of the one runnable command that starts so, each placeholder replaced."""
    (line,) = [line for line in runnable() if line.startswith(start)]
    found = {word: value for word, value in placeholders.items() if word in line}
    assert found == placeholders
    words = shlex.split(line.replace("$PWD/", ""))
    return [placeholders.get(word, word) for word in words]
