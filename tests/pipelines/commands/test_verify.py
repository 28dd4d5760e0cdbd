"""`verify`: an export is what its statement of provenance says, file by file, or it is told."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from conceptprune import load_mask
from conceptprune.checkpoints.statement import (
    PREDICATE_TYPE,
    STATEMENT_FILE,
    STATEMENT_TYPE,
    Statement,
    state,
)
from conceptprune.digest import digest_file
from conceptprune.errors import UserError
from pipelines.cli import main
from pipelines.commands.export import export_concepts
from pipelines.commands.verify import verify_export
from tests.pipelines.conftest import CONCEPTS, TinyStore, copied

ADA, CY, _ = CONCEPTS


def exported(tiny_store: TinyStore, out: Path, *names: str, form: str = "mask") -> Path:
    export_concepts(
        tiny_store.uri, list(names), out=out, form=form, fuse=None, run=None, model=tiny_store.model
    )
    return out


def problems(folder: Path, store: str | None = None) -> list[str]:
    return [problem for each in verify_export(folder, store) for problem in each.problems]


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(each) for each in arguments])
    assert isinstance(stop.value.code, int)
    return stop.value.code


@pytest.mark.parametrize("form", ["mask", "pipeline"])
def test_an_export_states_every_file_of_it_in_in_totos_layout(
    tiny_store: TinyStore, tmp_path: Path, form: str
) -> None:
    out = exported(tiny_store, tmp_path / "out", ADA, form=form)
    content = json.loads((out / STATEMENT_FILE).read_text())
    assert content["_type"] == STATEMENT_TYPE
    assert content["predicateType"] == PREDICATE_TYPE
    stated = {each["name"]: each["digest"]["sha256"] for each in content["subject"]}
    files = [path for path in out.rglob("*") if path.is_file() and path.name != STATEMENT_FILE]
    assert stated == {path.relative_to(out).as_posix(): digest_file(path) for path in files}
    assert ("unet/config.json" in stated) == (form == "pipeline")
    said = content["predicate"]
    assert said["base_model"]["digest"] == tiny_store.prepared.model.identity
    assert said["run"]["id"] == tiny_store.plan.run
    assert said["manifest"]["content"]["concepts"][0]["name"] == ADA
    (part,) = said["concepts"]
    commit = tiny_store.commits[tiny_store.plan.concepts[0].mask.key]
    assert part["concept"] == ADA
    assert part["mask"]["digest"] == commit.objects["mask"].digest
    assert part["erased"] == commit.provenance["finished"]
    assert "conceptprune" in said["exported_with"]
    assert problems(out, tiny_store.uri) == []


def test_the_same_export_twice_states_the_same(tiny_store: TinyStore, tmp_path: Path) -> None:
    first, second = (exported(tiny_store, tmp_path / name, ADA) for name in ("a", "b"))
    assert (first / STATEMENT_FILE).read_bytes() == (second / STATEMENT_FILE).read_bytes()


def test_a_file_that_was_changed_added_or_taken_away_is_named(
    tiny_store: TinyStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = exported(tiny_store, tmp_path / "out", ADA)
    (weights,) = out.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    (out / "README.md").unlink()
    (out / "more.bin").write_bytes(b"x")
    assert run("verify", out) == 1
    printed = capsys.readouterr().out
    assert "NOT as stated" in printed
    for told in (f"{weights.name}: has SHA-256", "README.md: is missing", "more.bin: is not in"):
        assert told in printed


def test_a_link_in_the_place_of_a_file_is_not_followed(
    tiny_store: TinyStore, tmp_path: Path
) -> None:
    out = exported(tiny_store, tmp_path / "out", ADA)
    (out / "README.md").rename(tmp_path / "elsewhere")
    (out / "README.md").symlink_to(tmp_path / "elsewhere")
    assert problems(out) == ["README.md: is a link"]


def test_a_pipe_is_told_and_not_waited_for(tiny_store: TinyStore, tmp_path: Path) -> None:
    out = exported(tiny_store, tmp_path / "out", ADA)
    for name in ("README.md", STATEMENT_FILE):
        (out / name).unlink()
        os.mkfifo(out / name)
        if name == STATEMENT_FILE:
            with pytest.raises(UserError, match="not a regular file"):
                verify_export(out)
        else:
            assert problems(out) == ["README.md: is not a regular file"]


def test_a_folder_or_a_link_to_one_that_was_added_is_named(
    tiny_store: TinyStore, tmp_path: Path
) -> None:
    out = exported(tiny_store, tmp_path / "out", ADA)
    (out / "unet").symlink_to(tmp_path)
    (out / "vae").mkdir()
    assert problems(out) == [
        "unet: is not in the statement",
        "vae: is a folder that is not in the statement",
    ]


@pytest.mark.parametrize(
    "predicate", [{}, {"concepts": None}, {"concepts": [{}]}, {"concepts": [{"concept": 5}]}]
)
def test_a_predicate_of_another_shape_is_told_in_a_line(
    tiny_store: TinyStore, tmp_path: Path, predicate: dict[str, object]
) -> None:
    out = exported(tiny_store, tmp_path / "out", ADA)
    (out / STATEMENT_FILE).write_bytes(state(out, predicate).to_bytes())
    with pytest.raises(UserError, match="its predicate is not as this version has it"):
        verify_export(out)


def test_a_store_whose_mask_is_damaged_or_gone_is_told(
    tiny_store: TinyStore, tmp_path: Path
) -> None:
    out = exported(tiny_store, tmp_path / "out", ADA)
    copy = copied(tiny_store, tmp_path / "copy")
    assert problems(out, copy.uri) == []
    ref = tiny_store.commits[tiny_store.plan.concepts[0].mask.key].objects["mask"]
    place = Path(copy.uri, ref.path)
    place.unlink()
    (found,) = problems(out, copy.uri)
    assert found.startswith(f"mask of {ADA}: ")
    assert "is missing" in found
    place.write_bytes(b"other")
    assert "is damaged" in problems(out, copy.uri)[0]


def test_a_statement_that_names_the_mask_of_another_concept_is_told(
    tiny_store: TinyStore, tmp_path: Path
) -> None:
    out = exported(tiny_store, tmp_path / "out", ADA)
    path = out / STATEMENT_FILE
    statement = Statement.from_bytes(path.read_bytes(), source="here")
    statement.predicate["concepts"][0]["concept"] = CY
    path.write_bytes(statement.to_bytes())
    told = problems(out, tiny_store.uri)
    assert told[-1] == f"mask of {CY}: is in the store a mask of {ADA}"
    assert {each.partition(":")[0] for each in told[:-1]} == {
        "conceptprune.json",
        *(path.name for path in out.glob("*.safetensors")),
    }


def restated(folder: Path) -> None:
    """State the files of an export as they are now, as anybody can."""
    said = Statement.from_bytes((folder / STATEMENT_FILE).read_bytes(), source="here")
    (folder / STATEMENT_FILE).write_bytes(state(folder, said.predicate).to_bytes())


@pytest.mark.parametrize("form", ["mask", "delta", "unet", "single-file", "pipeline"])
def test_files_that_erase_another_concept_than_the_stated_one_are_told_without_a_store(
    tiny_store: TinyStore, tmp_path: Path, form: str
) -> None:
    ada, cy = (exported(tiny_store, tmp_path / name, name, form=form) for name in (ADA, CY))
    assert problems(ada) == []
    for path in ada.rglob("*"):
        if path.is_file() and path.name != STATEMENT_FILE:
            path.unlink()
    for path in cy.rglob("*"):
        if path.is_file() and path.name != STATEMENT_FILE:
            (ada / path.relative_to(cy)).write_bytes(path.read_bytes())
    restated(ada)
    assert f"conceptprune.json: says {CY}, stated is {ADA}" in problems(ada)
    weights = [f"{path.name}: erases {CY}, stated is {ADA}" for path in ada.glob("*.safetensors")]
    assert form == "pipeline" or weights
    assert set(weights) <= set(problems(ada))


def test_another_mask_of_the_same_concept_is_told(tiny_store: TinyStore, tmp_path: Path) -> None:
    out = exported(tiny_store, tmp_path / "out", ADA)
    (file,) = out.glob("*.safetensors")
    mask = load_mask(file)
    replace(mask, provenance={**mask.provenance, "seed": 7}).save(file)
    restated(out)
    (told,) = problems(out)
    assert told.startswith(f"{file.name}: is not of the mask {mask.digest[:12]}")


def test_an_export_without_a_file_that_says_whom_it_erases_is_told(
    tiny_store: TinyStore, tmp_path: Path
) -> None:
    out = exported(tiny_store, tmp_path / "out", ADA)
    (file,) = out.glob("*.safetensors")
    save_file({"x": np.ones(1)}, file)
    restated(out)
    assert problems(out) == [f"no file says that it erases {ADA}"]
    file.write_bytes(b"x" * 20)
    restated(out)
    assert f"{file.name}: cannot be read: it is no safetensors file" in problems(out)


def test_what_lies_beside_several_exports_is_told(tiny_store: TinyStore, tmp_path: Path) -> None:
    out = exported(tiny_store, tmp_path / "out", ADA, CY)
    assert problems(out) == []
    first, second = sorted(out.iterdir())
    (second / STATEMENT_FILE).unlink()
    (out / "more.safetensors").write_bytes(b"x")
    (out / "link").symlink_to(first)
    (found,) = verify_export(out)
    assert found.folder == first
    assert sorted(found.problems) == sorted(
        [
            f"../{second.name}: has no {STATEMENT_FILE}: nothing in it was checked",
            "../link: lies beside the exports, and no statement names it",
            "../more.safetensors: lies beside the exports, and no statement names it",
        ]
    )


def test_a_store_whose_run_asked_for_something_else_is_told(
    tiny_store: TinyStore, tmp_path: Path
) -> None:
    out = exported(tiny_store, tmp_path / "out", ADA)
    copy = copied(tiny_store, tmp_path / "copy")
    path = Path(copy.uri, "runs", f"run={tiny_store.plan.run}", "run.json")
    record = json.loads(path.read_text())
    record["manifest"]["pruning"]["sparsity"] = 0.5
    path.unlink()
    path.write_text(json.dumps(record))
    (found,) = problems(out, copy.uri)
    assert found == f"run {tiny_store.plan.run}: its manifest in the store is another one"
    path.unlink()
    path.with_name("ledger.parquet").unlink()
    assert any("is not in" in each for each in problems(out, copy.uri))


def test_each_of_several_exports_is_checked_and_printed_as_json(
    tiny_store: TinyStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = exported(tiny_store, tmp_path / "out", ADA, CY)
    capsys.readouterr()
    assert run("verify", out, "--store", tiny_store.uri, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["format"] == "conceptprune.verify/1"
    assert found["good"] is True
    assert sorted(name for each in found["exports"] for name in each["concepts"]) == [ADA, CY]
    assert all(each["subjects"] and each["predicate"] for each in found["exports"])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "has no provenance.json"),
        (b"{", "is not a statement of provenance"),
        (b'{"_type": "x", "predicateType": "y"}', "is another kind of statement"),
    ],
)
def test_what_is_no_export_is_one_error(tmp_path: Path, content: bytes | None, told: str) -> None:
    if content is not None:
        (tmp_path / STATEMENT_FILE).write_bytes(content)
    with pytest.raises(UserError, match=told):
        verify_export(tmp_path)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a//b", "a/./b", ""])
def test_a_subject_that_is_no_file_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    statement = Statement(subjects={name: "0" * 64}, predicate={})
    with pytest.raises(UserError, match="not files of a folder"):
        Statement.from_bytes(statement.to_bytes(), source="here")


def test_a_statement_is_read_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.bin").write_bytes(b"1")
    statement = state(tmp_path, {"run": {"id": "r"}})
    assert Statement.from_bytes(statement.to_bytes(), source="here") == statement
    assert list(statement.differences(tmp_path)) == []
