"""`evaluate --json` and `sweep --json`: one document on standard output, of the documented form."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from conceptprune.evaluation.units import ScoresUnit
from conceptprune.units.sweep_units import SweepUnit
from pipelines.cli import main
from tests.pipelines.conftest import write_manifest
from tests.support.units_here import units_here

SUITE = {
    "version": 1,
    "name": "small",
    "model": {"builtin": "studio"},
    "fillers": {"style": ["cat"]},
    "groups": {"erased": [{"concept": {"name": "vorla brint", "kind": "style"}}]},
    "generation": {
        "steps": 1,
        "guidance": 1.0,
        "seeds": [0],
        "batch_size": 1,
        "shard_prompts": 1,
        "dtype": "float32",
        "device": "cpu",
    },
    "scorers": [{"scorer": "studio-judge"}],
}


def document(
    capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0
) -> dict[str, Any]:
    """What a command leaves on standard output, which must be one JSON document."""
    with pytest.raises(SystemExit) as stop:
        main([str(each) for each in arguments])
    assert stop.value.code == code
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def test_an_evaluation_is_one_document_with_a_number_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = tmp_path / "suite.yaml"
    suite.write_text(yaml.safe_dump(SUITE), encoding="utf-8")
    arguments = ("evaluate", suite, "--store", tmp_path / "store", "--of", "base", "--json")
    monkeypatch.setattr(
        "pipelines.jobs.evaluate.unit_runner", units_here(lambda unit: unit.kind == ScoresUnit.kind)
    )
    failed = document(capsys, *arguments, code=1)
    assert (failed["failed"], failed["blocked"], failed["numbers"]) == (1, 1, [])
    monkeypatch.setattr("pipelines.jobs.evaluate.unit_runner", units_here())
    found = document(capsys, *arguments)
    assert found.keys() == {
        "format",
        "run",
        "checkpoints",
        "computed",
        "reused",
        "failed",
        "blocked",
        "numbers",
    }
    assert found["format"] == "conceptprune.evaluate/1"
    assert found["checkpoints"] == ["base"]
    # The image was there already; its score and the summary were not.
    assert (found["computed"], found["failed"], found["blocked"]) == (2, 0, 0)
    numbers = {row["metric"]: row for row in found["numbers"]}
    assert numbers["style accuracy"]["checkpoint"] == "base"
    assert 0 <= numbers["style accuracy"]["value"] <= 1


def test_a_sweep_is_one_document_with_a_row_for_each_concept_and_setting(
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    manifest = write_manifest(
        tmp_path / "m.yaml",
        tiny_folder,
        fillers={"style": ["cat"]},
        concepts=[{"name": "Ada Bell", "kind": "style"}],
        sweep={"sparsity": [0.01, 0.02], "tau": [1, 2]},
    )
    arguments = ("sweep", manifest, "--store", tmp_path / "store", "--json")
    monkeypatch.setattr(
        "pipelines.jobs.erase.unit_runner", units_here(lambda unit: unit.kind == SweepUnit.kind)
    )
    failed = document(capsys, *arguments, code=1)
    assert (failed["failed"], failed["blocked"], failed["rows"]) == (2, 1, [])
    monkeypatch.setattr("pipelines.jobs.erase.unit_runner", units_here())
    found = document(capsys, *arguments)
    assert found.keys() == {
        "format",
        "run",
        "computed",
        "reused",
        "failed",
        "blocked",
        "rows",
    }
    assert found["format"] == "conceptprune.sweep/1"
    assert (found["computed"], found["failed"], found["blocked"]) == (3, 0, 0)
    settings = {(row["concept"], row["sparsity"], row["tau"]) for row in found["rows"]}
    assert settings == {("Ada Bell", k, tau) for k in (0.01, 0.02) for tau in (1, 2)}
