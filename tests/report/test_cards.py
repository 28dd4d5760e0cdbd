"""Model cards state what the run's pictures showed: the numbers of the report."""

import json
from pathlib import Path

import pytest

from pipelines.export import export_concepts
from pipelines.report.accuracy import Accuracy, Rate
from pipelines.report.data import read_report
from tests.report.conftest import HOSTILE, Run


def exported(run: Run, concepts: list[str], out: Path, fuse: str | None = None) -> Path:
    export_concepts(
        run.store.uri, concepts, out=out, form="mask", fuse=fuse, run=run.plan.run, model=None
    )
    return out


def check_measurements(folder: Path, accuracy: Accuracy | None) -> None:
    assert accuracy
    assert any(measure.after for measure in accuracy.detail)
    found = json.loads((folder / "conceptprune.json").read_text())["measurements"]
    card = (folder / "README.md").read_text()
    assert len(found) == len(accuracy.detail)
    for row, measure in zip(found, accuracy.detail, strict=True):
        assert f"| {measure.question.label} | {measure.question.prompts} |" in card
        for side, rate in (("before", measure.before), ("after", measure.after)):
            assert (row[side] is None) == (rate is None)
            if isinstance(rate, Rate):
                assert (row[side]["value"], row[side]["n"]) == (rate.share, rate.n)
                assert (row[side]["low"], row[side]["high"]) == rate.interval
                assert f"| {100 * rate.share:.0f} % (" in card
    assert "Measured on few pictures" in card
    assert "states no accuracy" not in card


def test_a_concepts_card_has_its_measurements(runs: dict[str, Run], tmp_path: Path) -> None:
    run = runs["judged"]
    folder = exported(run, ["vorla brint"], tmp_path / "out")
    (concept, *_) = read_report(run.store.uri, run.plan.run).concepts
    check_measurements(folder, concept.accuracy)


def test_a_fused_checkpoints_card_has_those_of_the_fused_mask(
    runs: dict[str, Run], tmp_path: Path
) -> None:
    run = runs["fused"]
    folder = exported(run, ["vorla brint", HOSTILE], tmp_path / "out", fuse="union")
    check_measurements(folder, read_report(run.store.uri, run.plan.run).fused_accuracy)


@pytest.mark.parametrize(
    ("name", "concepts", "fuse"),
    [("plain", ["vorla brint"], None), ("fused", ["vorla brint", HOSTILE], "retain-shared")],
)
def test_a_card_without_pictures_of_its_very_mask_states_no_accuracy(
    runs: dict[str, Run], tmp_path: Path, name: str, concepts: list[str], fuse: str | None
) -> None:
    card = (exported(runs[name], concepts, tmp_path / "out", fuse) / "README.md").read_text()
    assert "states no accuracy" in card
    assert "## Measured" not in card
