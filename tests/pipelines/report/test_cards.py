"""Model cards state what the run's images showed: the numbers of the report."""

import json
import shutil
from pathlib import Path

import pytest

from conceptprune.store import Store
from pipelines.commands.export import export_concepts
from pipelines.report.accuracy import Accuracy, Rate
from pipelines.report.data import read_report
from tests.pipelines.report.conftest import HOSTILE, Run
from tests.pipelines.report.many import commit_summary, score


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
    assert "Measured on few images" in card
    assert "states no accuracy" not in card


def test_a_concepts_card_has_its_measurements(runs: dict[str, Run], tmp_path: Path) -> None:
    run = runs["judged"]
    folder = exported(run, ["vorla brint"], tmp_path / "out")
    (concept, *_) = read_report(run.store.uri, run.plan.run).concepts
    check_measurements(folder, concept.accuracy)


def test_a_combined_checkpoints_card_has_those_of_the_fused_mask(
    runs: dict[str, Run], tmp_path: Path
) -> None:
    run = runs["fused"]
    folder = exported(run, ["vorla brint", HOSTILE], tmp_path / "out", fuse="union")
    combined = read_report(run.store.uri, run.plan.run).combined
    assert combined
    check_measurements(folder, combined.accuracy)


def test_a_card_has_what_evaluations_found_of_its_very_mask_beside_the_base(
    runs: dict[str, Run], tmp_path: Path
) -> None:
    run = Run(store=Store(str(tmp_path / "store")), plan=runs["plain"].plan)
    shutil.copytree(runs["plain"].store.uri, run.store.uri)
    report = read_report(run.store.uri, run.plan.run)
    assert report.concepts[0].mask
    mine = {"checkpoint": "mine", "source": "mask", "erased": ["vorla brint"]}
    commit_summary(
        run.store,
        [
            score(group="erased", value=0.9, low=0.8, high=0.95),
            score(**mine, digest=report.concepts[0].mask.digest, group="erased", value=0.1),
            score(**mine, digest="ab" * 32, group="erased", metric="of another mask", value=0.5),
        ],
    )
    folder = exported(run, ["vorla brint"], tmp_path / "out")
    (found,) = json.loads((folder / "conceptprune.json").read_text())["evaluations"]
    assert (found["base"]["value"], found["checkpoint"]["value"]) == (0.9, 0.1)
    card = (folder / "README.md").read_text()
    assert "| 0.9 (0.8 to 0.95) of " in card
    assert "of another mask" not in card
    assert "states no accuracy" not in card


def test_a_sealed_checkpoints_card_says_so_and_has_no_number_of_the_unsealed_one(
    runs: dict[str, Run], tmp_path: Path, tiny_folder: Path
) -> None:
    run = runs["judged"]
    export_concepts(
        run.store.uri,
        ["vorla brint"],
        out=tmp_path / "out",
        form="delta",
        fuse=None,
        run=run.plan.run,
        model=tiny_folder,
        seal=True,
    )
    card = (tmp_path / "out" / "README.md").read_text()
    assert "replaced by random draws" in card
    assert "Sealed, not safe" in card
    assert "## Measured" not in card
    assert "set to zero" not in card


@pytest.mark.parametrize(
    ("name", "concepts", "fuse"),
    [("plain", ["vorla brint"], None), ("fused", ["vorla brint", HOSTILE], "retain-shared")],
)
def test_a_card_without_images_of_its_very_mask_states_no_accuracy(
    runs: dict[str, Run], tmp_path: Path, name: str, concepts: list[str], fuse: str | None
) -> None:
    card = (exported(runs[name], concepts, tmp_path / "out", fuse) / "README.md").read_text()
    assert "states no accuracy" in card
    assert "## Measured" not in card
