"""A working directory from which tests submit."""

from pathlib import Path

import pytest

from tests.pipelines.submit.sent import MANIFEST, SUITE, put, write


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a suite and what it names; the tests are in it."""
    folder = tmp_path / "work"
    write(folder / "manifests" / "m.yaml", MANIFEST)
    write(folder / "suites" / "s.yaml", SUITE)
    put(folder / "data" / "prompts.csv", "prompt\na portrait\n")
    put(folder / "masks" / "ada.safetensors", "a mask")
    put(folder / "exports" / "ada" / "model_index.json", "{}")
    monkeypatch.chdir(folder)
    return folder
