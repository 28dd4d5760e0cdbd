"""`export --combined` writes the run's own combined checkpoint, a rewording or a fused mask."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from conceptprune.checkpoints.statement import STATEMENT_FILE, Statement
from conceptprune.errors import UserError
from conceptprune.manifest import Reword
from conceptprune.store import Store
from conceptprune.store.events import check_events
from conceptprune.units.reword_units import RewordUnit
from pipelines.cli import main
from pipelines.commands.export_combined import export_combined
from pipelines.commands.verify import verify_export
from pipelines.jobs.preparation import prepare
from tests.pipelines.commands.conftest import Run, RunCards
from tests.pipelines.commands.exported import aligned, image, only_safetensors
from tests.pipelines.conftest import (
    CONCEPTS,
    HOSTILE_NAME,
    TinyStore,
    copied,
    record_run,
    whole_plan,
    write_manifest,
)

ADA, CY, LAST = CONCEPTS
FORMS = ("delta", "pipeline", "single-file", "unet")


@pytest.fixture
def store(reworded_store: TinyStore, tmp_path: Path) -> Store:
    return copied(reworded_store, tmp_path / "store")


@pytest.fixture
def run_export(store: Store, reworded_store: TinyStore, tmp_path: Path) -> Run:
    def run(form: str, **options: Any) -> Path:
        out: Path = options.pop("out", tmp_path / f"out-{form}")
        settings = {"run": None, "model": reworded_store.model, **options}
        export_combined(settings.pop("store", store.uri), out=out, form=form, **settings)
        return out

    return run


def delta_ref(tiny: TinyStore) -> Any:
    assert isinstance(tiny.plan.combined, RewordUnit)
    return tiny.commits[tiny.plan.combined.key].objects["delta"]


def metadata(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "conceptprune.json").read_text())
    return content


def test_every_form_generates_what_the_base_with_the_delta_generates(
    run_export: Run, reworded_store: TinyStore, tiny_pipe: StableDiffusionPipeline
) -> None:
    # The stored bytes themselves, for which no model is needed.
    out = run_export("delta", model=None)
    ref = delta_ref(reworded_store)
    assert only_safetensors(out).read_bytes() == reworded_store.store.read(ref)
    before = image(tiny_pipe)
    found = tiny_pipe.unet.load_state_dict(load_file(only_safetensors(out)), strict=False)
    assert not found.unexpected_keys
    wanted = image(aligned(tiny_pipe))
    assert not torch.equal(wanted, before)

    folder = run_export("pipeline")
    (whole,) = reworded_store.plan.combined_checkpoints
    for path, each in reworded_store.commits[whole.key].objects.items():
        if path != "README.md":
            assert (folder / path).read_bytes() == reworded_store.store.read(each), path
    assert torch.equal(image(aligned(StableDiffusionPipeline.from_pretrained(folder))), wanted)

    file = only_safetensors(run_export("single-file"))
    one = StableDiffusionPipeline.from_single_file(
        str(file), config=str(reworded_store.model), local_files_only=True
    )
    assert torch.equal(image(aligned(one)), wanted)

    state = load_file(only_safetensors(run_export("unet")))
    expected = tiny_pipe.unet.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)


@pytest.mark.parametrize("form", FORMS)
def test_it_says_what_it_is_how_to_load_it_and_its_limits(
    run_export: Run, reworded_store: TinyStore, form: str
) -> None:
    out = run_export(form)
    _, front, body = (out / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front)["base_model"] == "tiny"
    ref = delta_ref(reworded_store)
    tensors = load_file(Path(reworded_store.uri, ref.path))
    number = sum(tensor.numel() for tensor in tensors.values())
    for expected in (
        "# `tiny` without `Ada Bell`, `Cy Dow`, `` ../../Eve ¦ `rm` [link](x) ``",
        "Gandikota et al., WACV 2024",
        "closed form",
        f"{number:,}, in {len(tensors)} tensors",
        "base 6, empty 1.5, retain 4.5, ridge 0.001, vocabulary 1, words 1000",
        "| concepts retained | `Gil Hart` |",
        reworded_store.prepared.model.identity,
        ref.digest,
        f"torch {torch.__version__}",
        "Anyone with the base model can put its keys and values back",
        "learned anew for a concept",
        "states no accuracy",
    ):
        assert expected in body
    assert HOSTILE_NAME not in body
    assert "zero" not in body.split("## Limits")[0]
    assert "pruned" not in body.replace("nothing was pruned", "")
    found = metadata(out)
    assert (found["form"], found["method"]) == (form, "reword")
    assert found["concepts"] == list(CONCEPTS)
    assert found["delta_digest"] == ref.digest
    assert found["settings"] == Reword().key_parts
    assert found["retained"] == ["Gil Hart"]
    assert found["entries"] == number


def test_the_code_of_every_card_runs_as_it_is_in_a_fresh_process(
    run_export: Run, run_cards: RunCards, reworded_store: TinyStore
) -> None:
    folders = [run_export(form) for form in FORMS]
    for folder in folders:
        if not (folder / "model_index.json").exists():
            (folder / "tiny").symlink_to(reworded_store.model)
    assert len(run_cards(folders)) == len(FORMS)


@pytest.mark.parametrize("form", FORMS)
def test_its_statement_names_the_delta_and_verify_holds_both_against_the_store(
    run_export: Run, store: Store, reworded_store: TinyStore, form: str
) -> None:
    out = run_export(form)
    (found,) = verify_export(out, store.uri)
    assert found.problems == ()
    assert found.concepts == CONCEPTS
    said = found.statement.predicate
    ref = delta_ref(reworded_store)
    assert said["combined"]["how"] == "reworded"
    assert said["combined"]["object"]["digest"] == said["export"]["delta_sha256"] == ref.digest
    assert said["base_model"]["digest"] == reworded_store.prepared.model.identity
    sums = {each["concept"]: each["sums"]["digest"] for each in said["concepts"]}
    shifts = {unit.detail: unit.key for unit in reworded_store.plan.units() if unit.kind == "shift"}
    for name, key in shifts.items():
        assert sums[name] == reworded_store.commits[key].objects["moments"].digest
    # The export is on record, with its delta.
    (event,) = (each for each in check_events(store).events if each.what == "exported")
    assert event.details["rewording"] == {"delta": ref.digest, "concepts": list(CONCEPTS)}
    assert event.details["masks"] == {}
    # Of other concepts than it erases.
    path = out / STATEMENT_FILE
    statement = Statement.from_bytes(path.read_bytes(), source="here")
    statement.predicate["concepts"].pop()
    path.write_bytes(statement.to_bytes())
    (found,) = verify_export(out, store.uri)
    *files, problem = found.problems
    assert files[0].startswith("conceptprune.json: says ")
    assert len(files) == (1 if form == "pipeline" else 2)
    assert problem.startswith(f"rewording of {ADA}, {CY}: is in the store a rewording of {ADA}, ")
    # And one that is damaged in the store.
    place = Path(store.uri, ref.path)
    place.unlink()
    place.write_bytes(b"other")
    assert "is damaged" in verify_export(out, store.uri)[0].problems[-1]


def test_the_same_export_twice_states_the_same(run_export: Run, tmp_path: Path) -> None:
    first, second = (run_export("delta", out=tmp_path / name) for name in ("a", "b"))
    assert (first / STATEMENT_FILE).read_bytes() == (second / STATEMENT_FILE).read_bytes()


@pytest.mark.parametrize("form", ["mask", "delta", "pipeline"])
def test_a_fused_mask_is_exported_as_it_is_in_the_store(
    tiny_store: TinyStore, tmp_path: Path, form: str
) -> None:
    store = copied(tiny_store, tmp_path / "store")
    out = tmp_path / "out"
    export_combined(store.uri, out=out, form=form, run=None, model=tiny_store.model)
    assert tiny_store.plan.combined
    ref = tiny_store.commits[tiny_store.plan.combined.key].objects["mask"]
    if form == "mask":
        assert only_safetensors(out).read_bytes() == store.read(ref)
    assert metadata(out)["mask_digest"] == ref.digest
    assert metadata(out)["concepts"] == list(CONCEPTS)
    (found,) = verify_export(out, store.uri)
    assert found.problems == ()
    said = found.statement.predicate
    assert (said["combined"]["how"], said["combined"]["object"]["digest"]) == ("fused", ref.digest)
    assert all(part["mask"] for part in said["concepts"])
    place = Path(store.uri, ref.path)
    place.unlink()
    (problem,) = verify_export(out, store.uri)[0].problems
    assert problem.startswith("mask of Ada Bell, Cy Dow, ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--as", "delta", ADA], "--combined: is without concept names"),
        (["--as", "delta", "--all"], "--combined: is without --all"),
        (["--as", "delta", "--fuse", "union"], "--combined: is without --fuse"),
        (["--as", "delta", "--alpha", "0.5"], "--alpha and --fraction are settings of --fuse"),
        (["--as", "delta", "--seal"], "--seal: run .* rewords its concepts, .* no zeros to hide"),
        (["--as", "mask"], "--as mask: run .* rewords its concepts, .* allowed are pipeline, "),
        (["--as", "dleta"], "--as dleta: allowed are .*; nearest: delta"),
        (["--as", "pipeline"], "--model: the folder of tiny is needed"),
        (["--as", "delta", "--run", "nope"], "--run nope: .* has no such run"),
    ],
)
def test_what_it_cannot_do_is_one_message(
    store: Store,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as stop:
        main(["export", store.uri, *options, "--combined", "--out", str(out)])
    assert stop.value.code == 2
    (said,) = capfd.readouterr().err.splitlines()
    assert re.search(message, said), said
    assert not out.exists()


def test_a_run_that_combines_nothing_or_is_not_finished_says_so(
    reworded_store: TinyStore, tiny_folder: Path, tmp_path: Path
) -> None:
    alone = prepare(write_manifest(tmp_path / "m.yaml", tiny_folder, outputs={}))
    options: dict[str, Any] = {"out": tmp_path / "out", "form": "delta", "model": None}
    store = Store(str(tmp_path / "store"))
    record_run(store, alone, whole_plan(alone))
    with pytest.raises(UserError, match="combines nothing, as its manifest has neither outputs"):
        export_combined(store.uri, run=None, **options)
    record_run(store, reworded_store.prepared, reworded_store.plan)
    with pytest.raises(UserError, match=r"combined checkpoint of run .* is not finished \(pending"):
        export_combined(store.uri, run=reworded_store.plan.run, **options)
