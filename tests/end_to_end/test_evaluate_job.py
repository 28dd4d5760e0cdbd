"""The studio suite: its golden numbers, and what a rerun does, on real Ray and without."""

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from conceptprune.evaluation.scorers import declared
from conceptprune.evaluation.summary import OBJECT, SCHEMA
from conceptprune.evaluation.summary import SORTED_BY as ORDER
from conceptprune.store import Store, parquet_to_table
from conceptprune.store.tables import UNIT_KEY
from conceptprune.units.unit import APPLIED
from conceptprune.units.worker import Worker
from pipelines.cli import main
from pipelines.jobs.preparation import prepare
from pipelines.records.evaluation import EvaluationRecord, evaluation_records
from pipelines.records.ledger import ledger_rows, read_ledger, write_ledger
from pipelines.records.run_record import RunRecord
from pipelines.scheduling.loop import Result
from tests.pipelines.conftest import whole_plan

# Half a minute of computing, which a busy machine may take many minutes for.
pytestmark = pytest.mark.timeout(1800)

SUITE = Path(__file__).parents[2] / "manifests" / "suites" / "studio.yaml"
GOLDEN = Path(__file__).with_name("studio_golden.json")
ERASED = "vorla brint"


def suite_with(actors: int, folder: Path) -> Path:
    """The suite, to be run by so many actors."""
    content = yaml.safe_load(SUITE.read_text(encoding="utf-8"))
    content["compute"]["actors"] = actors
    path = folder / f"with-{actors}-actors.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """A store with a run of `erase`, and what evaluating its artifacts left and said."""

    store: Store
    arguments: list[str]
    code: int
    output: str

    @property
    def record(self) -> EvaluationRecord:
        return evaluation_records(self.store)[0]

    def table(self, name: str) -> list[dict[str, Any]]:
        commit = self.store.get("evaluation", self.record.summary)
        rows: list[dict[str, Any]] = parquet_to_table(self.store.load(commit, name)).to_pylist()
        return rows


def evaluate(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", *arguments])
    assert isinstance(stop.value.code, int)
    return stop.value.code


def erase_here(folder: Path) -> Store:
    """An artist erased from the studio model, without Ray: mask, delta and pipeline in a store."""
    content = {
        "version": 1,
        "model": {"builtin": "studio"},
        "fillers": {"style": ["cat", "car", "tree", "house", "fish", "boat"]},
        "concepts": [{"name": ERASED, "kind": "style"}],
        "collection": {
            "steps": 20,
            "tau": 6,
            "guidance": 5.0,
            "batch_size": 6,
            "dtype": "float32",
            "device": "cpu",
        },
        "outputs": {"deltas": True, "pipelines": True},
    }
    manifest = folder / "manifest.yaml"
    manifest.write_text(yaml.safe_dump(content))
    prepared = prepare(manifest)
    plan = whole_plan(prepared)
    store = Store(str(folder / "store"))
    worker = Worker(store, prepared.model)
    results = {
        unit.key: Result(unit=unit, status="done", attempts=1, commit=worker.run(unit))
        for unit in plan.units()
    }
    RunRecord(
        run=plan.run,
        manifest=prepared.manifest.model_dump(mode="json", exclude={"model"}),
        model_label=prepared.model.source.label,
        model_identity=prepared.model.identity,
        pipeline=prepared.model.pipeline,
        denoiser_weights=prepared.denoiser_weights,
        started=1.0,
    ).write(store)
    write_ledger(store, plan.run, ledger_rows(plan, todo=results, results=results, reused={}))
    return store


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    """The suite on the base, and on one erasure in each of the forms it comes in."""
    folder = tmp_path_factory.mktemp("evaluated")
    store = erase_here(folder)
    (delta,) = Path(store.uri).glob("objects/delta/*/*.safetensors")
    pipeline = folder / "pipeline"
    with pytest.raises(SystemExit) as stop:
        main(["export", store.uri, ERASED, "--out", str(pipeline)])
    assert not stop.value.code
    of = ["base", f"mask:{ERASED}", f"as a delta=delta:{delta}", f"folder:{pipeline}"]
    suite = str(suite_with(0, folder))
    arguments = [suite, "--store", store.uri, *(x for name in of for x in ("--of", name))]
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setenv("COLUMNS", "250")
        code = evaluate(arguments)
    return Evaluated(store=store, arguments=arguments, code=code, output=said.getvalue())


def counts(evaluated: Evaluated) -> dict[str, list[int]]:
    """[hits, images] of every rate: the same on another CPU, where last bits may differ."""
    return {
        " | ".join(row[name] for name in ("checkpoint", "group", "scorer", "metric")): [
            round(row["value"] * row["n"]),
            row["n"],
        ]
        for row in evaluated.table(OBJECT)
    }


def test_the_studio_suite_gives_its_golden_numbers(evaluated: Evaluated) -> None:
    assert evaluated.code == 0
    assert counts(evaluated) == json.loads(GOLDEN.read_text())


def test_the_golden_numbers_show_an_erasure() -> None:
    golden = json.loads(GOLDEN.read_text())

    def rate(checkpoint: str, group: str, metric: str = "style accuracy") -> float:
        hits, images = golden[f"{checkpoint} | {group} | studio-judge | {metric}"]
        return float(hits / images)

    assert rate("base", f"erased/{ERASED}") == 1
    assert rate(ERASED, f"erased/{ERASED}") == 0
    # It answers for what it says it erased, not for the suite's other erased artist.
    assert rate(ERASED, "erased") == 0
    assert rate(ERASED, "erased/quill tander") == rate("base", "erased/quill tander")
    assert rate(ERASED, "retained") == rate("base", "retained")


def test_one_erasure_generates_the_same_images_as_a_mask_a_delta_and_a_folder(
    evaluated: Evaluated,
) -> None:
    images: dict[str, list[str]] = {}
    for row in evaluated.table("images"):
        images.setdefault(row["checkpoint"], []).append(row["image_digest"])
    assert images[ERASED] == images["as a delta"] == images["pipeline"]
    assert images[ERASED] != images["base"]
    assert {len(digests) for digests in images.values()} == {20}


def test_the_summary_keeps_the_contract_and_every_number_has_its_interval_and_settings(
    evaluated: Evaluated,
) -> None:
    commit = evaluated.store.get("evaluation", evaluated.record.summary)
    table = parquet_to_table(evaluated.store.load(commit, OBJECT))
    # Cast, for Parquet has a name of its own for a list's items.
    assert table.cast(SCHEMA).equals(table.cast(SCHEMA).sort_by([(x, "ascending") for x in ORDER]))
    unit = {UNIT_KEY: commit.key.encode()}
    assert table.schema.metadata == {**SCHEMA.metadata, **unit}
    assert table.schema.names == SCHEMA.names
    for row in table.to_pylist():
        assert row["low"] <= row["value"] <= row["high"]
        assert row["low"] < row["high"]
        settings = json.loads(row["settings"])
        assert settings["weights"]
        assert settings["versions"]["torch"]
        assert settings["interval"]["method"] in ("bootstrap", "wilson")
        metric = declared(settings, row["metric"])
        assert metric
        assert not metric.is_share or (row["low"] >= 0 and row["high"] <= 1)
    sources = {row["checkpoint"]: (row["source"], row["erased"]) for row in table.to_pylist()}
    assert sources == {
        "base": ("base", []),
        ERASED: ("mask", [ERASED]),
        "as a delta": ("delta", [ERASED]),
        "pipeline": ("folder", [ERASED]),
    }


def test_the_unlearncanvas_accuracies_are_those_of_the_judge_by_domain(
    evaluated: Evaluated,
) -> None:
    found = counts(evaluated)
    for checkpoint in ("base", ERASED):
        judge = f"{checkpoint} | {{}} | studio-judge | {{}} accuracy"
        seen, images = found[judge.format("erased", "style")]
        start = f"{checkpoint} | {{}} | unlearncanvas/studio-judge | {{}}"
        assert found[start.format("erased", "UA")] == [images - seen, images]
        assert found[start.format("retained", "IRA")] == found[judge.format("retained", "style")]
        assert found[start.format("retained", "CRA")] == found[judge.format("retained", "object")]


def test_the_images_are_files_that_anyone_can_read(evaluated: Evaluated) -> None:
    folder = Path(evaluated.store.uri)
    for row in evaluated.table("images")[:3]:
        assert Image.open(folder / row["image"]).size == (64, 64)
    (path, *_) = folder.glob("objects/scores/*/*.parquet")
    assert {"prompt", "seed", "metric", "value"} <= set(pq.read_table(path).column_names)


def test_a_checkpoint_that_images_were_generated_with_is_not_counted_with_each_of_them(
    evaluated: Evaluated,
) -> None:
    rows = [
        row for row in read_ledger(evaluated.store, evaluated.record.run) if row["kind"] == "images"
    ]
    edited = 0
    for row in rows:
        made = [path for path in row["objects"] if path.startswith("objects/image")]
        edited += len(made) < len(row["objects"])
        assert row["bytes"] == sum(
            (Path(evaluated.store.uri) / path).stat().st_size for path in made
        )
    assert 0 < edited < len(rows)


def test_the_table_on_the_terminal_has_every_checkpoint(evaluated: Evaluated) -> None:
    for text in ("base", ERASED, "as a delta", "pipeline", "UA", "lower is better"):
        assert text in evaluated.output


def test_a_second_run_computes_nothing_and_new_labels_generate_nothing(
    evaluated: Evaluated, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(evaluated.arguments) == 0
    assert "nothing to compute" in capsys.readouterr().out
    renamed = [*evaluated.arguments[:3], "--of", "untouched=base"]
    assert evaluate(renamed) == 0
    run = evaluated.record.run
    done = [row["kind"] for row in read_ledger(evaluated.store, run) if row["status"] == "done"]
    assert done == ["evaluation"]
    assert {row["checkpoint"] for row in evaluated.table(OBJECT)} == {"untouched"}


def test_damaged_images_are_generated_again_with_the_same_bytes(
    evaluated: Evaluated, cluster: None, tmp_path: Path
) -> None:
    """And by an actor on Ray instead of this process: neither changes a digest."""
    store = evaluated.store
    wanted = evaluated.table("images")
    (key, *_) = store.committed("images")
    for role, ref in store.get("images", key).objects.items():
        # The mask that was applied is no image, and is not made here.
        if role != APPLIED:
            (Path(store.uri) / ref.path).write_bytes(b"damaged")
    for kind in ("evaluation", "scores"):
        for path in Path(store.uri).glob(f"commits/{kind}/*.json"):
            path.unlink()
    suite = str(suite_with(1, tmp_path))
    assert evaluate([suite, "--store", store.uri, "--of", "untouched=base"]) == 0
    assert evaluated.table("images") == wanted


def test_status_shows_both_kinds_of_runs_and_gc_keeps_what_they_need(
    evaluated: Evaluated, capsys: pytest.CaptureFixture[str]
) -> None:
    main_exits = (["status", evaluated.store.uri], ["gc", evaluated.store.uri])
    said = []
    for arguments in main_exits:
        with pytest.raises(SystemExit) as stop:
            main(list(arguments))
        assert not stop.value.code
        said.append(capsys.readouterr().out)
    assert f"evaluation {evaluated.record.run}" in said[0]
    assert "suite     studio" in said[0]
    assert "a rerun would compute nothing" in said[0]
    assert "concepts  1 of 1 done" in said[0]


@pytest.mark.parametrize(
    ("of", "fix"),
    [
        (["mask:nobody"], '"nobody" is not a concept of run'),
        (["base", "base"], "give LABEL=KIND:VALUE"),
        (["folder:nowhere"], "not a folder"),
        (["delta:nowhere.safetensors"], "cannot be read"),
    ],
)
def test_bad_input_exits_2_and_writes_nothing(
    evaluated: Evaluated, capsys: pytest.CaptureFixture[str], of: list[str], fix: str
) -> None:
    before = sorted(Path(evaluated.store.uri).rglob("*"))
    names = [x for name in of for x in ("--of", name)]
    assert evaluate([*evaluated.arguments[:3], *names]) == 2
    assert fix in capsys.readouterr().err
    assert sorted(Path(evaluated.store.uri).rglob("*")) == before
