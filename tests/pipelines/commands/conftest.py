"""`export` of a finished run, and a fresh process that runs the code of the cards written."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

import conceptprune
from pipelines.commands.export import export_concepts
from tests.pipelines.conftest import TinyStore

ROOT = Path(conceptprune.__file__).parents[1]

Run = Callable[..., Path]
RunCards = Callable[[Sequence[Path]], list[list[int]]]


@pytest.fixture
def run_export(tiny_store: TinyStore, tmp_path: Path) -> Run:
    """`export` of the tiny store; returns the folder written."""

    def run(*concepts: str, form: str, out: Path = tmp_path / "out", **options: object) -> Path:
        store = options.pop("store", tiny_store.uri)
        settings = {"fuse": None, "run": None, "model": tiny_store.model, **options}
        export_concepts(store, list(concepts), out=out, form=form, **settings)  # type: ignore[arg-type]
        return out

    return run


@pytest.fixture(scope="session")
def run_cards() -> Iterator[RunCards]:
    """Runs the cards of folders; returns how many zeros each parameter of their U-Nets has.

    One process for all tests, as it starts in seconds.
    """
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(
            [sys.executable, "-m", "tests.support.run_cards"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=ROOT,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
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
