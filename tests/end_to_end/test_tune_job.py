"""`tune` on the studio model: two artists, each with the least strength after which it is gone."""

import contextlib
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from conceptprune.evaluation.units import ImagesUnit
from conceptprune.store import Store, parquet_to_table
from conceptprune.units.unit import Unit
from pipelines.cli import main
from pipelines.jobs.tune import DOCUMENT, MANIFEST
from pipelines.records.evaluation import evaluation_records
from pipelines.records.ledger import read_ledger
from pipelines.records.runs import run_records
from tests.support.units_here import units_here

# Half a minute of computing, which a busy machine may take many minutes for.
pytestmark = pytest.mark.timeout(1800)

ARTISTS = ("vorla brint", "quill tander")
VALUES = (0.0025, 0.005, 0.01)
FIELDS = {
    *("format", "run", "method", "suite", "gone", "hold"),
    *("concepts", "combined", "reword", "steps"),
}
OF_EACH = {
    *("name", "strength", "status", "scorer", "metric", "before", "after"),
    *("kept_before", "kept_after", "tried"),
}
PAGE = (Path(__file__).parents[2] / "docs" / "COMMANDS.md").read_text(encoding="utf-8")


def written(path: Path, content: dict[str, Any]) -> Path:
    # Through JSON, for values that occur twice would become aliases, which are refused.
    path.write_text(yaml.safe_dump(json.loads(json.dumps(content))), encoding="utf-8")
    return path


def manifest(folder: Path, **changes: Any) -> Path:
    content = {
        "version": 1,
        "model": {"builtin": "studio"},
        "fillers": {"style": ["cat", "car", "tree", "house", "fish", "boat"]},
        "concepts": [
            {"name": ARTISTS[0], "kind": "style"},
            {"name": ARTISTS[1], "kind": "style", "pruning": {"tau": 1}},
        ],
        "collection": {
            "steps": 10,
            "tau": 3,
            "guidance": 5.0,
            "batch_size": 6,
            "dtype": "float32",
            "device": "cpu",
        },
        "outputs": {"deltas": True},
        "compute": {"actors": 1},
    }
    return written(folder / "m.yaml", {**content, **changes})


def suite(folder: Path, **changes: Any) -> Path:
    def of(name: str) -> dict[str, Any]:
        return {"concept": {"name": name, "kind": "style"}}

    content = {
        "version": 1,
        "name": "choosing",
        "model": {"builtin": "studio"},
        "fillers": {"style": ["car", "tree", "house"]},
        "groups": {
            # The suite may have more than the manifest erases.
            "erased": [of(ARTISTS[0]), of("tobin gral"), of(ARTISTS[1])],
            "retained": [{**of("imra dovel"), "limit": 1}],
            "general": [{"name": "photos", "prompts": ["a photo of a cat"]}],
        },
        "generation": {
            "steps": 4,
            "guidance": 5.0,
            "seeds": [100, 101],
            "batch_size": 6,
            "dtype": "float32",
            "device": "cpu",
        },
        "scorers": [{"scorer": "studio-judge"}],
        "compute": {"actors": 0},
    }
    return written(folder / "suite.yaml", {**content, **changes})


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """What a tune job left and said."""

    code: int
    output: str
    errors: str

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.output)
        return found


def tune(folder: Path, *options: str, name: str = "tuned.yaml") -> Tuned:
    values = ",".join(map(str, VALUES))
    arguments = [str(folder / "m.yaml"), str(folder / "suite.yaml"), "--store", str(folder / "s")]
    arguments += ["--out", str(folder / name), "--values", values, *options]
    said, errors = io.StringIO(), io.StringIO()
    with (
        pytest.raises(SystemExit) as stop,
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(errors),
    ):
        main(["tune", *arguments])
    assert isinstance(stop.value.code, int)
    return Tuned(code=stop.value.code, output=said.getvalue(), errors=errors.getvalue())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tune")
    manifest(made)
    suite(made)
    return made


@pytest.fixture(scope="module")
def tuned(folder: Path, cluster: None) -> Tuned:
    """Masks are made on Ray, images in this process."""
    return tune(folder, "--json")


def test_each_artist_gets_the_least_strength_after_which_the_suite_sees_it_no_more(
    tuned: Tuned,
) -> None:
    assert tuned.code == 0, tuned.errors
    found = tuned.document
    each = {row["name"]: row for row in found["concepts"]}
    assert list(each) == list(ARTISTS)
    assert [each[name]["strength"] for name in ARTISTS] == [0.005, 0.01]
    for row in each.values():
        assert (row["status"], row["before"], row["after"]) == ("gone", [6, 6], [0, 6])
        assert row["kept_after"] >= 0.95 * row["kept_before"] > 0
        assert (row["scorer"], row["metric"]) == ("studio-judge", "style accuracy")
        # The next weaker one was measured, and was not enough.
        tried = {one["strength"]: one["after"][0] for one in row["tried"]}
        assert tried[VALUES[VALUES.index(row["strength"]) - 1]] > 0
    assert len(found["steps"]) == 2


def test_the_fields_of_its_document_are_the_documented_ones(tuned: Tuned) -> None:
    found = tuned.document
    assert found["format"] == "conceptprune.tuning/1"
    assert found.keys() == FIELDS
    assert all(row.keys() == OF_EACH for row in found["concepts"])
    assert found["suite"].keys() == {"name", "sha256", "seeds"}
    of_a_try = {"strength", "after", "kept_after"}
    assert all(one.keys() == of_a_try for row in found["concepts"] for one in row["tried"])
    of_a_step = {"run", "evaluation", "computed", "reused", "failed"}
    assert all(step.keys() == of_a_step for step in found["steps"])
    words = set(re.findall(r"`([a-z_0-9]+)`", PAGE))
    assert FIELDS | OF_EACH | of_a_try | of_a_step | found["suite"].keys() <= words


def test_every_step_is_a_run_in_the_store_and_the_last_has_what_was_found(
    tuned: Tuned, folder: Path
) -> None:
    store, found = Store(str(folder / "s")), tuned.document
    records = run_records(store)
    assert records[0].run == found["run"]
    assert {record.run for record in records} == {found["run"]} | {
        step["run"] for step in found["steps"]
    }
    assert {record.run for record in evaluation_records(store)} == {
        step["evaluation"] for step in found["steps"]
    }
    assert json.loads(store.read_run_file(found["run"], DOCUMENT) or b"") == found
    assert store.read_run_file(found["run"], MANIFEST) == (folder / "tuned.yaml").read_bytes()


def test_a_mask_is_asked_for_its_own_concept_and_for_what_must_stay(
    tuned: Tuned, folder: Path
) -> None:
    store = Store(str(folder / "s"))
    for record in evaluation_records(store):
        commit = store.get("evaluation", record.summary)
        rows = parquet_to_table(store.load(commit, "images")).to_pylist()
        asked = {
            label: {row["name"] for row in rows if row["checkpoint"] == label}
            for label in record.labels
        }
        stay = {"imra dovel", "photos"}
        assert asked == {"base": {*ARTISTS, *stay}} | {name: {name, *stay} for name in ARTISTS}


def test_the_tuned_manifest_is_erased_as_it_is_from_the_masks_that_are_there(
    tuned: Tuned, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "tuned.yaml"
    assert yaml.safe_load(path.read_text("utf-8"))["outputs"] == {"deltas": True}
    with pytest.raises(SystemExit) as stop:
        main(["erase", str(path), "--store", str(folder / "s")])
    assert not stop.value.code
    store = Store(str(folder / "s"))
    rows = read_ledger(store, run_records(store)[0].run)
    assert {row["kind"] for row in rows if row["status"] == "done"} == {"checkpoint"}
    assert capsys.readouterr().out.count("mask ") == len(ARTISTS)


def test_a_second_job_computes_nothing_and_writes_the_same_bytes(
    tuned: Tuned, folder: Path
) -> None:
    again = tune(folder, name="again.yaml")
    assert again.code == 0
    assert len(re.findall("nothing to compute", again.output)) == 5
    assert (folder / "again.yaml").read_bytes() == (folder / "tuned.yaml").read_bytes()
    lines = [line for line in again.output.splitlines() if line.startswith(ARTISTS)]
    assert [re.split(r" {2,}", line.strip()) for line in lines] == [
        [ARTISTS[0], "0.5 %", "6 of 6", "0 of 6", "1", "1", "gone"],
        [ARTISTS[1], "1 %", "6 of 6", "0 of 6", "1", "1", "gone"],
    ]


def test_what_fails_is_named_the_others_go_on_and_a_later_job_does_what_is_missing(
    tuned: Tuned, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for write in (manifest, suite):
        write(tmp_path)

    def of_the_second(unit: Unit) -> bool:
        texts = {prompt.text for prompt in unit.prompts} if isinstance(unit, ImagesUnit) else set()
        edited = isinstance(unit, ImagesUnit) and unit.image_model.edit is not None
        return edited and any(ARTISTS[1] in text for text in texts)

    with monkeypatch.context() as patch:
        patch.setattr("pipelines.jobs.erase.unit_runner", units_here())
        patch.setattr("pipelines.jobs.evaluate.unit_runner", units_here(of_the_second))
        first = tune(tmp_path, "--json")
        patch.setattr("pipelines.jobs.evaluate.unit_runner", units_here())
        second = tune(tmp_path, "--json")
    assert (first.code, second.code) == (1, 0)
    assert "told to fail" in first.errors
    rows = first.document["concepts"]
    assert [(row["status"], row["strength"]) for row in rows] == [("gone", 0.005), ("failed", None)]
    assert second.document["concepts"] == tuned.document["concepts"]
    # Nothing was computed twice. Prompts are made before a step knows its units.
    computed = [step["computed"] for one in (first, second) for step in one.document["steps"]]
    commits = [path.parent.name for path in (tmp_path / "s").glob("commits/*/*.json")]
    assert sum(computed) == len(commits) - commits.count("prompts")
    assert (tmp_path / "tuned.yaml").read_text("utf-8") == (folder / "tuned.yaml").read_text(
        "utf-8"
    )


@pytest.mark.parametrize(
    ("options", "fix"),
    [
        (["--gone", "1"], "--gone 1: give the share of its images"),
        (["--hold", "2"], "--hold 2: give the share"),
        (["--values", "1,x"], "--values 1,x: give sparsities above 0 and at most 1"),
        (["--values", "0.5,2"], "--values 0.5,2: give at most 100 sparsities"),
        (["--values", "0.0001"], "the largest, 0.0001, is less than one of the"),
    ],
)
def test_bad_options_exit_2_and_write_nothing(tmp_path: Path, options: list[str], fix: str) -> None:
    manifest(tmp_path)
    suite(tmp_path)
    refused = tune(tmp_path, *options)
    assert refused.code == 2
    assert fix in refused.errors
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("of_the_manifest", "of_the_suite", "fix"),
    [
        (
            {"concepts": [{"name": "cat", "kind": "object"}, {"name": "x", "kind": "nudity"}]},
            {},
            "x: attacks.judged: a metric that falls with erasure is needed",
        ),
        ({"pruning": {"selector": "fia"}}, {}, "needs selector: conceptprune"),
        (
            {},
            {"attacks": {"judged": {"scorer": "studio-judge", "metric": "beauty"}}},
            "attacks.judged: studio-judge's beauty is needed",
        ),
    ],
)
def test_what_cannot_be_tuned_exits_2_and_writes_nothing(
    tmp_path: Path, of_the_manifest: dict[str, Any], of_the_suite: dict[str, Any], fix: str
) -> None:
    manifest(tmp_path, **of_the_manifest)
    suite(tmp_path, **of_the_suite)
    refused = tune(tmp_path)
    assert refused.code == 2
    assert fix in refused.errors
    assert refused.errors.startswith("error: ")
    assert not (tmp_path / "s").exists()


def test_a_suite_of_another_model_is_refused(tmp_path: Path, tiny_folder: Path) -> None:
    manifest(tmp_path)
    suite(tmp_path, model={"folder": str(tiny_folder)})
    refused = tune(tmp_path)
    assert refused.code == 2
    assert "is not the model of" in refused.errors
