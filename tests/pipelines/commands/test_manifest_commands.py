"""`init`, `schema` and `diff`, and the documents of `--json`."""

import json
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from conceptprune.evaluation.job_manifest import load_job_manifest
from pipelines.cli import main
from pipelines.commands.diff import difference
from pipelines.commands.reference import reference_text
from pipelines.commands.schema import schema_of, schema_text
from tests.pipelines.conftest import TinyStore, write_manifest

ROOT = Path(__file__).parents[3]
MANIFESTS = sorted((ROOT / "manifests").glob("*.yaml"))
SUITES = sorted((ROOT / "manifests" / "suites").glob("*.yaml"))


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return int(stop.value.code or 0)


@cache
def validator(document: str) -> jsonschema.Draft202012Validator:
    """Of a schema that is a right one itself."""
    schema = schema_of(document)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def style(*names: str) -> list[dict[str, str]]:
    return [{"name": name, "kind": "style"} for name in names]


@pytest.mark.parametrize("document", ["manifest", "suite"])
def test_the_shipped_schema_is_the_one_that_is_printed(document: str) -> None:
    shipped = ROOT / "manifests" / f"{document}.schema.json"
    assert shipped.read_text(encoding="utf-8") == schema_text(document)


@pytest.mark.parametrize("document", ["manifest", "suite"])
def test_the_reference_has_every_field_of_the_schema_and_is_the_shipped_one(document: str) -> None:
    text = reference_text(document)
    shipped = ROOT / "docs" / f"{document.upper()}.md"
    assert shipped.read_text(encoding="utf-8") == text
    schema = schema_of(document)
    sections = text.split("\n## ")[1:]
    told = {section.partition("\n")[0]: section for section in sections}
    for name, section in {document: schema, **schema["$defs"]}.items():
        for field in section.get("properties", {}):
            assert f"| `{field}` | " in told[name], f"{name}.{field}"
    # No field is without a word on what may stand there.
    assert "| anything |" not in text


@pytest.mark.parametrize("path", [*MANIFESTS, *SUITES], ids=lambda path: path.stem)
def test_every_shipped_file_keeps_its_schema(path: Path) -> None:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    for scorer in content.get("scorers", ()):
        if "torchscript" in scorer:
            # Its user brings the file, and its digest.
            scorer.setdefault("sha256", "0" * 64)
    validator("suite" if path in SUITES else "manifest").validate(content)


@pytest.mark.parametrize(
    ("section", "valid"),
    [
        ({"concepts": {"file": "x.csv", "kind": "style"}}, True),
        ({"concepts": {"file": "x.csv", "kind": "stile"}}, False),
        ({"outputs": {"fuse": "union"}}, True),
        ({"outputs": {"fuse": "onion"}}, False),
        ({"prunning": {}}, False),
        ({"pruning": {"sparsity": 2}}, False),
    ],
)
def test_an_editor_learns_short_forms_fields_and_ranges(
    section: dict[str, Any], valid: bool
) -> None:
    content = {"version": 1, "model": {"builtin": "studio"}, "concepts": style("x"), **section}
    found = list(validator("manifest").iter_errors(content))
    assert (not found) is valid


def test_init_writes_a_manifest_that_is_valid_as_it_stands(tmp_path: Path) -> None:
    out = tmp_path / "m.yaml"
    assert run("init", out) == 0
    assert load_job_manifest(out).concepts
    before = out.read_text(encoding="utf-8")
    assert run("init", out) == 2
    assert out.read_text(encoding="utf-8") == before


def test_init_takes_the_names_of_a_list_relative_to_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "it's names.txt").write_text("Van Gogh\nMonet\n", encoding="utf-8")
    out = tmp_path / "m.yaml"
    assert run("init", out, "--from", tmp_path / "it's names.txt", "--kind", "style") == 0
    assert [each.name for each in load_job_manifest(out).concepts] == ["Van Gogh", "Monet"]


def test_the_next_command_that_init_prints_allows_the_folder_of_a_list_that_lies_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real folder" / "inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real folder" / "inner")
    (tmp_path / "names.csv").write_text("name,kind\nAda,style\n")
    # Paths of today's folder, which `..` of the link is not below.
    monkeypatch.chdir(tmp_path)
    assert run("init", "link/m.yaml", "--from", "names.csv") == 0
    _, _, following = capsys.readouterr().out.strip().partition("; next: ")
    assert "--files-from FOLDER" in Path("link/m.yaml").read_text(encoding="utf-8")
    # Nobody who is handed the manifest alone has allowed that folder.
    assert run("validate", "link/m.yaml") == 2
    assert "--files-from" in capsys.readouterr().err
    program, *words = shlex.split(following)
    assert program == "conceptprune"
    assert run(*words) == 0
    assert "1 concepts to erase" in capsys.readouterr().out
    assert run("diff", "link/m.yaml", "link/m.yaml", *words[2:]) == 0


def test_init_names_no_folder_for_a_list_below_the_manifest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "names.csv").write_text("name,kind\nAda,style\n")
    assert run("init", tmp_path / "m.yaml", "--from", tmp_path / "lists" / "names.csv") == 0
    assert "--files-from" not in (tmp_path / "m.yaml").read_text() + capsys.readouterr().out
    assert run("validate", tmp_path / "m.yaml") == 0


def test_init_refuses_a_name_that_would_be_more_than_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("init", tmp_path / "a\nb: 1.yaml") == 2
    assert "line breaks or control characters in its name" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_init_writes_nothing_where_the_list_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = tmp_path / "names.csv"
    names.write_text("name,kind\nx,stile\n", encoding="utf-8")
    assert run("init", tmp_path / "m.yaml", "--from", names) == 2
    assert "names.csv:2: concepts[0].kind" in capsys.readouterr().err
    assert not (tmp_path / "m.yaml").exists()


def test_diff_names_what_is_added_dropped_and_kept_and_costs_the_new_only(
    tiny_store: TinyStore, tmp_path: Path
) -> None:
    model = tiny_store.model
    old = write_manifest(tmp_path / "old.yaml", model, concepts=style("A", "B"), outputs={})
    new = write_manifest(tmp_path / "new.yaml", model, concepts=style("B", "C"), outputs={})
    found = difference(old, new)
    assert (found.added, found.dropped, found.kept, found.redone) == (("C",), ("A",), ("B",), ())
    # The added concept's target side: 3 prompts, 2 guidance branches, 3 calls; its base is shared.
    assert found.evaluations == 3 * 2 * 3
    assert found.all_evaluations == 3 * found.evaluations


def test_diff_tells_a_concept_whose_settings_changed_from_one_that_is_kept(
    tiny_store: TinyStore, tmp_path: Path
) -> None:
    old = write_manifest(tmp_path / "old.yaml", tiny_store.model, outputs={})
    new = write_manifest(
        tmp_path / "new.yaml", tiny_store.model, outputs={}, pruning={"sparsity": 0.03}
    )
    found = difference(old, new)
    assert found.kept == ()
    assert len(found.redone) == 3
    assert found.evaluations == 0


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    """What a command leaves on standard output, which must be one JSON document."""
    assert run(*arguments) == 0
    document = json.loads(capsys.readouterr().out)
    assert isinstance(document, dict)
    return document


def test_plan_prices_hours_and_money_in_json(
    tiny_store: TinyStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compute = {"actors": 2, "gpus_per_actor": 0.5}
    path = write_manifest(tmp_path / "m.yaml", tiny_store.model, outputs={}, compute=compute)
    found = printed(capsys, "plan", path, "--json", "--rate", 0.01, "--gpu-hour", 2)
    assert found["format"] == "conceptprune.plan/1"
    assert found["all"] == found["left"]
    assert sum(kind["all"]["units"] for kind in found["kinds"].values()) == found["all"]["units"]
    hours = found["all"]["evaluations"] / 0.01 / 2 / 3600
    assert found["estimate"]["gpu_hours"] == pytest.approx(hours)
    assert found["estimate"]["price"] == pytest.approx(2 * hours)


def test_a_price_without_a_speed_is_refused(tiny_store: TinyStore) -> None:
    assert run("plan", tiny_store.manifest, "--gpu-hour", 2) == 2


def test_status_in_json_counts_what_the_text_counts(
    tiny_store: TinyStore, capsys: pytest.CaptureFixture[str]
) -> None:
    found = printed(capsys, "status", tiny_store.uri, "--json")
    (shown,) = found["runs"]
    assert found["format"] == "conceptprune.status/1"
    assert shown["run"] == tiny_store.plan.run
    # It was made without a job, which is who looks at effects.
    assert shown["concepts"] == {"all": 3, "done": 3, "wrong": {}, "effect": None}
    assert shown["combined"] == {
        "how": "fused",
        "status": "done",
        "wrong": None,
        "lacking": [],
    }
    assert shown["units"]["done"] == len(tiny_store.plan.by_key)
    assert (shown["rerun_units"], shown["without_result"]) == (0, [])
