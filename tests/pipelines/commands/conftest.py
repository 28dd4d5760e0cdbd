"""A process that runs the code of model cards: one for all tests, as its start takes seconds."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

import conceptprune

ROOT = Path(conceptprune.__file__).parents[1]

RunCards = Callable[[Sequence[Path]], list[list[int]]]


@pytest.fixture(scope="session")
def run_cards() -> Iterator[RunCards]:
    """Runs the cards of folders; returns how many zeros each parameter of their U-Nets has."""
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(
            [sys.executable, "-m", "tests.support.run_cards"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=ROOT,
        ) as process,
    ):
        assert process.stdin
        assert process.stdout
        asked, answers = process.stdin, process.stdout

        def run(folders: Sequence[Path]) -> list[list[int]]:
            found = []
            for folder in folders:
                print(json.dumps(str(folder)), file=asked, flush=True)
                answer = answers.readline()
                if not answer:
                    process.wait()
                    log.seek(0)
                    pytest.fail(f"{folder}: {log.read()}")
                found.append(json.loads(answer))
            return found

        yield run
