"""The whole job, on a real local Ray cluster and without: equal bytes, and honest exit codes.

What Ray has no part in runs without it, which saves starting its processes.
"""

import time
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from rich.console import Console

from conceptprune.store import Store
from conceptprune.units.worker import Worker
from pipelines.cli import main
from pipelines.commands.gc import collect_garbage
from pipelines.jobs.erase import _prompts, _spec
from pipelines.jobs.preparation import plan_here, prepare
from pipelines.jobs.run import unit_runner
from pipelines.records.ledger import read_ledger
from pipelines.report.data import read_report
from tests.end_to_end.conftest import masks, objects
from tests.support.tiny_language_model import CONCEPT, MANIFEST_SETTINGS, WORDS, save_language_model

# Half a minute of computing, which a busy machine may take many minutes for.
pytestmark = pytest.mark.timeout(1800)


@pytest.fixture
def manifest(tmp_path: Path, tiny_folder: Path) -> Any:
    """Writes a manifest for the tiny model; keyword arguments change its sections."""

    def write(*artists: str, **sections: Any) -> Path:
        content: dict[str, Any] = {
            "version": 1,
            "model": {"folder": str(tiny_folder)},
            "concepts": [
                {"name": name, "kind": "style"} for name in artists or ("Ada Bell", "Cy Dorn")
            ],
            "fillers": {"style": ["cat", "car", "tree"]},
            "collection": {
                "steps": 10,
                "tau": 4,
                "batch_size": 2,
                "shard_prompts": 2,
                "dtype": "float32",
            },
            "pruning": {"sparsity": 0.02},
            "compute": {"actors": 0, "cpus_per_actor": 0.5},
        }
        for name, section in sections.items():
            merge = isinstance(section, dict) and name in content
            content[name] = {**content[name], **section} if merge else section
        path = tmp_path / "manifest.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return path

    return write


def erase(manifest: Path, store: Path | str) -> int:
    return exit_code("erase", manifest, store)


def exit_code(command: str, manifest: Path, store: Path | str) -> int:
    with pytest.raises(SystemExit) as stop:
        main([command, str(manifest), "--store", str(store)])
    assert isinstance(stop.value.code, int)
    return stop.value.code


def ledger(store: Path) -> list[dict[str, Any]]:
    opened = Store(str(store))
    (run,) = opened.runs()
    return read_ledger(opened, run)


def test_masks_are_the_same_bytes_in_windows_and_without_ray(
    manifest: Any, here: Any, tmp_path: Path
) -> None:
    path = manifest(collection={"window": 3}, outputs={"fuse": "union"})
    assert erase(path, tmp_path / "store") == 0
    found = masks(tmp_path / "store")
    assert len(found) == 3
    assert found == here(manifest(outputs={"fuse": "union"}))


@pytest.fixture(scope="module")
def language_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_language_model(tmp_path_factory.mktemp("language-model") / "lists")


def test_a_language_model_writes_the_same_prompts_with_two_actors_and_none(
    manifest: Any,
    cluster: None,
    language_model_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    generator = {"model": {"folder": str(language_model_folder)}, **MANIFEST_SETTINGS}
    sections: dict[str, Any] = {
        "concepts": [{"name": name, "kind": "object"} for name in ("Vorla", "Brint", "Kesto")],
        "prompts": {"generator": {**generator, "per_concept": 2}},
        "collection": {"tau": 1},
    }
    stores = {actors: tmp_path / f"store{actors}" for actors in (0, 2)}
    for actors, store in stores.items():
        path = manifest(**sections, compute={"actors": actors})
        prepared = prepare(path)
        spec = _spec(prepared, Store(str(store)), "job", "plain")
        with unit_runner(spec, prepared.manifest.compute, Store(str(store))) as run:
            _prompts(prepared, Store(str(store)), run)
    none, two = stores.values()
    written = objects(two, "prompts") | objects(two, "answers")
    assert len(written) == 6
    assert written == objects(none, "prompts") | objects(none, "answers")

    # The rest in this process: job, plan, gc and report go by the prompts that were written.
    plan = plan_here(prepared, Store(str(two)))
    bases = {pair.base.text for concept in plan.concepts for pair in concept.pairs}
    assert bases <= {f"a {word}" for word in (*WORDS, CONCEPT)}
    worker = Worker(Store(str(two)), prepared.model)
    for unit in plan.units():
        worker.run(unit)
    assert (
        erase(path, two) == exit_code("plan", path, two) == exit_code("plan", path, tmp_path) == 0
    )
    collect_garbage(str(two), Console(), now=time.time() + 1e6)
    out = capsys.readouterr().out
    assert out.count("nothing to compute") == 2
    assert "lists is yet to write those of 3 concepts" in out
    assert "could be removed: 0 files" in out
    assert len(read_report(str(two), None).concepts) == 3


def test_a_concept_whose_prompts_fail_fails_alone(
    manifest: Any, language_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = {"model": {"folder": str(language_model_folder)}, **MANIFEST_SETTINGS}
    path = manifest(
        concepts=[{"name": "cat", "kind": "object"}, {"name": "Ada Bell", "kind": "style"}],
        prompts={"generator": {**generator, "per_concept": 200, "max_asks": 2}},
        collection={"tau": 1},
        outputs={"fuse": "union"},
    )
    assert erase(path, tmp_path / "store") == 1
    out = " ".join(capsys.readouterr().out.split())
    assert 'concept "cat": lists gave only' in out
    assert "of 200 fillers in 2 answers; rejected lines: " in out
    rows = ledger(tmp_path / "store")
    by_concept = {
        name: {(row["kind"], row["status"]) for row in rows if row["concepts"] == [name]}
        for name in ("cat", "Ada Bell")
    }
    assert by_concept["cat"] == {
        ("generated-prompts", "failed"),
        ("window", "blocked"),
        ("statistics", "blocked"),
        ("mask", "blocked"),
    }
    assert by_concept["Ada Bell"] == {
        (kind, "done") for kind in ("prompts", "window", "statistics", "mask")
    }
    # What is made of all masks is not made of fewer: there is one of the others, and it says so.
    of_all, of_the_rest = (row for row in rows if not row["concepts"])
    assert (of_all["kind"], of_all["status"]) == ("fused-mask", "blocked")
    assert (of_the_rest["kind"], of_the_rest["status"]) == ("fused-mask", "done")
    assert len(masks(tmp_path / "store")) == 2  # That of the other concept, and the combined one.


def test_a_second_run_computes_nothing_and_says_so(
    manifest: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = manifest()
    assert erase(path, tmp_path / "store") == 0
    before = masks(tmp_path / "store")
    capsys.readouterr()
    assert erase(path, tmp_path / "store") == 0
    assert "nothing to compute" in capsys.readouterr().out
    assert {row["status"] for row in ledger(tmp_path / "store")} == {"reused"}
    assert masks(tmp_path / "store") == before


def test_adding_a_concept_computes_that_concept_only(manifest: Any, tmp_path: Path) -> None:
    store = tmp_path / "store"
    assert erase(manifest("Ada Bell"), store) == 0
    first = set(Store(str(store)).runs())
    assert erase(manifest("Ada Bell", "Cy Dorn"), store) == 0
    (run,) = set(Store(str(store)).runs()) - first
    rows = read_ledger(Store(str(store)), run)
    prompts, *computed = [row for row in rows if row["status"] == "done"]
    assert (prompts["kind"], prompts["concepts"]) == ("prompts", ["Ada Bell", "Cy Dorn"])
    assert {tuple(row["concepts"]) for row in computed} == {("Cy Dorn",)}
    # Its target side (two shards), their reduction, and its mask.
    assert sorted(row["kind"] for row in computed) == ["mask", "statistics", "window", "window"]


def test_a_poison_concept_fails_alone_and_the_exit_code_says_so(
    manifest: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same = {"name": "Nothing", "kind": "custom", "prompts": [{"base": "a cat", "target": "a CAT"}]}
    good = {"name": "Ada Bell", "kind": "style"}
    path = manifest(concepts=[same, good], outputs={"deltas": True})
    assert erase(path, tmp_path / "store") == 1
    rows = {(row["kind"], *row["concepts"]): row for row in ledger(tmp_path / "store")}
    failed = rows["mask", "Nothing"]
    assert (failed["status"], failed["attempts"]) == ("failed", 1)
    assert "base and target prompts differ" in failed["error"]
    assert rows["checkpoint", "Nothing"]["status"] == "blocked"
    assert rows["checkpoint", "Ada Bell"]["status"] == "done"
    assert "Nothing" in capsys.readouterr().out


def test_bad_input_exits_2_and_writes_nothing(
    manifest: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = manifest(pruning={"sparsity": 7})
    assert erase(path, tmp_path / "store") == 2
    assert "pruning.sparsity" in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


def test_masks_are_the_same_bytes_by_two_actors_in_windows_of_which_one_dies_and_is_replaced(
    manifest: Any, here: Any, cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kills the first actor as soon as it has been given work, before it can begin.

    A job with one actor, which lives, is that of `test_observability.py`.
    """
    from pipelines.scheduling.workers import WorkerPool

    submit, killed = WorkerPool.submit, []

    def submit_and_kill(pool: WorkerPool, unit: Any) -> None:
        submit(pool, unit)
        if pool.slots and not killed:
            killed.append(pool.slots[0])
            ray.kill(pool.slots[0].handle)

    monkeypatch.setattr(WorkerPool, "submit", submit_and_kill)
    path = manifest(collection={"window": 1}, compute={"actors": 2}, outputs={"fuse": "union"})
    assert erase(path, tmp_path / "store") == 0
    assert killed
    # Work that never began has used no attempt.
    assert max(row["attempts"] for row in ledger(tmp_path / "store")) == 1
    found = masks(tmp_path / "store")
    assert len(found) == 3
    assert found == here(manifest(outputs={"fuse": "union"}))
