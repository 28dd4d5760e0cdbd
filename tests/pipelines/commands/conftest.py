"""A fresh process that runs the code of model cards: one for all tests, as it starts in seconds."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

import conceptprune

ROOT = Path(conceptprune.__file__).parents[1]

RunCards = Callable[[Sequence[Path]], list[list[int]]]

RUN_CARDS = """
import json, os, re, sys
from functools import partialmethod
from pathlib import Path
from diffusers import StableDiffusionPipeline as Pipeline
Pipeline.__call__ = partialmethod(Pipeline.__call__, num_inference_steps=2)
del partialmethod, Pipeline
answers, sys.stdout = sys.stdout, sys.stderr
for line in sys.stdin:
    os.chdir(json.loads(line))
    code, = re.findall(r"```python\\n(.*?)```", Path("README.md").read_text(), flags=re.DOTALL)
    names = {}
    exec(code, names)
    zeros = [int((p == 0).sum()) for p in names["pipe"].unet.parameters()]
    print(json.dumps(zeros), file=answers, flush=True)
"""
"""Runs the code of the card of each folder that it is told, with names of its own."""


@pytest.fixture(scope="session")
def run_cards() -> Iterator[RunCards]:
    """Runs the cards of folders; returns how many zeros each parameter of their U-Nets has."""
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(
            [sys.executable, "-c", RUN_CARDS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
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
