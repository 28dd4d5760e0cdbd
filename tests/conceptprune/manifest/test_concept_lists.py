"""Concepts that a manifest takes from a file, and what is said of a row that is wrong."""

import os
from pathlib import Path

import pytest

from conceptprune.errors import ManifestError
from conceptprune.manifest import load_manifest
from conceptprune.manifest.files import also_allowed
from conceptprune.manifest.loading import MAX_SHOWN_PROBLEMS, load_with_paths
from conceptprune.manifest.schema import Manifest

HEAD = "version: 1\nmodel: {builtin: studio}\n"


def manifest(folder: Path, section: str, name: str = "", content: str | bytes = "") -> Path:
    """A manifest with that `concepts:` section, beside a list."""
    if name:
        data = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(data)
    path = folder / "m.yaml"
    path.write_text(f"{HEAD}concepts: {section}\n", encoding="utf-8")
    return path


def rejection(path: Path) -> str:
    with pytest.raises(ManifestError) as caught:
        load_manifest(path)
    return str(caught.value)


def test_a_text_file_has_a_name_a_line_and_all_get_the_kind_beside_it(tmp_path: Path) -> None:
    names = "\ufeff# takedown of May\n\nVan Gogh\r\n  Claude Monet \n"
    path = manifest(tmp_path, "{file: list.txt, kind: style}", "list.txt", names)
    listed = load_manifest(path)
    written = load_manifest(
        manifest(tmp_path, "[{name: Van Gogh, kind: style}, {name: Claude Monet, kind: style}]")
    )
    assert listed == written


def test_a_csv_has_columns_for_kind_and_own_settings_and_an_empty_cell_says_nothing(
    tmp_path: Path,
) -> None:
    table = (
        "name,kind,fillers,template.base,template.target,direction,captions,caption_base\n"
        '"Dow, Cy",,cat | old tree,a {filler},a {filler} by {concept},,,\n'
        "\n"
        "bias of doctors,bias,,,,male_to_female,,\n"
        'The cover,memorised,,,,,"one, two|three",a cover\n'
    )
    path = manifest(tmp_path, "{file: list.csv, kind: style}", "list.csv", table)
    written = """
  - {name: "Dow, Cy", kind: style, fillers: [cat, old tree],
     template: {base: "a {filler}", target: "a {filler} by {concept}"}}
  - {name: bias of doctors, kind: bias, direction: male_to_female}
  - {name: The cover, kind: memorised, captions: ["one, two", three], caption_base: a cover}"""
    assert load_manifest(path) == load_manifest(manifest(tmp_path, written))


def test_a_csv_has_columns_for_each_concepts_own_pruning(tmp_path: Path) -> None:
    table = (
        "name,kind,pruning.sparsity,pruning.tau,pruning.selector,pruning.r2\n"
        "x,style,0.02,3,,\n"
        "y,style,,,,\n"
        "z,object,,,fia,1e-2\n"
    )
    path = manifest(tmp_path, "{file: list.csv}", "list.csv", table)
    written = """
  - {name: x, kind: style, pruning: {sparsity: 0.02, tau: 3}}
  - {name: y, kind: style}
  - {name: z, kind: object, pruning: {selector: fia, r2: 0.01}}"""
    assert load_manifest(path) == load_manifest(manifest(tmp_path, written))


def test_retained_concepts_can_be_listed_too(tmp_path: Path) -> None:
    (tmp_path / "keep.csv").write_text("kind,name\nobject,dog\n", encoding="utf-8")
    path = manifest(tmp_path, "[{name: x, kind: style}]\nretain: {file: keep.csv}")
    assert [concept.name for concept in load_manifest(path).retain] == ["dog"]


def test_the_list_is_among_the_files_that_a_manifest_names(tmp_path: Path) -> None:
    path = manifest(tmp_path, "{file: l.txt, kind: style}", "l.txt", "x\n")
    _, named = load_with_paths(path, Manifest)
    assert [(each.field, each.found) for each in named] == [("concepts", str(tmp_path / "l.txt"))]


# The list, and what is said of it: its line first.
WRONG_ROWS = [
    ("name,kind\nx,style\ny,stile\n", "l.csv:3: concepts[1].kind", "nearest: style"),
    ("name,kind\nx,style\n\n\nX ,object\n", "l.csv:5: concepts[1].name", "l.csv:2 has the same"),
    ("name,kind\n,style\n", "l.csv:2: concepts[0].name", "found:   nothing"),
    ('name,kind\n"a\nb",style\nx,stile\n', "l.csv:4: concepts[1].kind", '"stile"'),
    ('name,kind\n"a\nb",style\n', "l.csv:2: concepts[0].name", "one line of text"),
    ("name,kind,direction\nx,style,male_to_female\n", "l.csv:2: concepts[0].direction", "takes"),
    ("name,kind,pruning.sparsity\nx,style,7\n", "l.csv:2: concepts[0].pruning.sparsity", "at most"),
    ("name,kind,pruning.tau\nx,style,2.5\n", "l.csv:2: concepts[0].pruning.tau", "whole number"),
    ("name,kind,pruning.tau\nx,style,two\n", "l.csv:2: concepts[0].pruning.tau", "whole number"),
    ("name,kind\nx,custom\n", "l.csv:2: concepts[0].prompts", "custom has no templates"),
    ("name,kind,fillers\nx,style,cat|cat\n", "l.csv:2: concepts[0].fillers[1]", "no filler twice"),
    ("name,kind\nx,style,more\n", "m.yaml:3: concepts.file", "l.csv:2 has 3"),
    ("name,kindd\nx,style\n", "m.yaml:3: concepts.file", "l.csv:1 has 'kindd'"),
    ("name;kind\nx;style\n", "concepts.file", "has 'name;kind' (commas separate columns)"),
    ("name,name,kind\nx,y,style\n", "m.yaml:3: concepts.file", "l.csv:1 has 'name'"),
    ("kind\nstyle\n", "m.yaml:3: concepts.file", "l.csv:1 has no column name"),
    ("name\nx\n", "m.yaml:3: concepts.file", "l.csv:1 has no column kind"),
    ("name,kind\n", "m.yaml:3: concepts.file", "l.csv has none"),
    ("", "m.yaml:3: concepts.file", "no column name"),
    ('name,kind\nx,style\n"y,style\n', "m.yaml:3: concepts.file", "l.csv:3: unexpected end"),
    # Characters at which Python breaks lines and no editor does.
    ("name,kind\nx\vy,style\n", "l.csv:2: concepts[0].name", "U+000B"),
    ("name,kind\r\nx,style\r\ny\u2028z,style\r\n", "l.csv:3: concepts[1].name", "U+2028"),
    (b"name,kind\nx,style\n\xff,style\n", "m.yaml:3: concepts.file", "l.csv:3 is not"),
]


@pytest.mark.parametrize(("table", "where", "said"), WRONG_ROWS)
def test_what_is_wrong_with_a_row_is_told_with_file_and_line(
    table: str | bytes, where: str, said: str, tmp_path: Path
) -> None:
    message = rejection(manifest(tmp_path, "{file: l.csv}", "l.csv", table))
    assert where in message.replace(f"{tmp_path}/", "")
    assert said in message.replace(f"{tmp_path}/", "")


@pytest.mark.parametrize(
    ("section", "where", "said"),
    [
        ("{file: l.txt}", "concepts.kind", "style, nudity, object"),
        ("{file: l.txt, kind: stile}", "concepts.kind", "nearest: style"),
        ("{file: l.txt, kind: style, seed: 1}", "concepts.seed", "{file: NAMES.csv"),
        ("{kind: style}", "concepts.file", "the path of a .csv or .txt file"),
        ("{file: 7, kind: style}", "concepts.file", "the path of a .csv or .txt file"),
        ("{file: no.txt, kind: style}", "concepts.file", "no.txt is not there"),
        ("{file: ., kind: style}", "concepts.file", "not a regular file"),
    ],
)
def test_a_section_that_names_no_usable_list_is_refused(
    section: str, where: str, said: str, tmp_path: Path
) -> None:
    message = rejection(manifest(tmp_path, section, "l.txt", "x\n"))
    assert f"m.yaml:3: {where}" in message
    assert said in message


def test_a_pipe_in_the_place_of_a_list_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    refused = rejection(manifest(tmp_path, "{file: pipe.txt, kind: style}"))
    assert "not a regular file" in refused


@pytest.mark.parametrize("field", ["concepts", "retain"])
@pytest.mark.parametrize(
    "named", ["/proc/self/environ", "../planted.txt", "link.txt", "inner/../../planted.txt"]
)
def test_a_list_outside_the_manifests_folder_is_refused_and_not_read(
    field: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-secret")
    (tmp_path / "planted.txt").write_text("planted-secret\n")
    folder = tmp_path / "manifests"
    folder.mkdir()
    (folder / "link.txt").symlink_to("../planted.txt")
    own = "" if field == "concepts" else "[{name: x, kind: style}]\nretain: "
    message = rejection(manifest(folder, f"{own}{{file: {named}, kind: style}}"))
    assert f"{field}.file" in message
    assert "--files-from names" in message
    assert "is elsewhere" in message
    assert "planted-secret" not in message


def test_a_list_of_a_folder_that_the_command_line_allows_is_read(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "l.txt").write_text("Monet\n")
    (tmp_path / "manifests").mkdir()
    path = manifest(tmp_path / "manifests", "{file: ../lists/l.txt, kind: style}")
    with also_allowed(tmp_path / "lists"):
        assert [each.name for each in load_manifest(path).concepts] == ["Monet"]
    assert "is elsewhere" in rejection(path)


def test_a_list_behind_a_loop_of_links_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").symlink_to("b.txt")
    (tmp_path / "b.txt").symlink_to("a.txt")
    assert "concepts.file" in rejection(manifest(tmp_path, "{file: a.txt, kind: style}"))


def test_of_very_many_wrong_rows_the_first_are_shown_and_the_rest_counted(tmp_path: Path) -> None:
    table = "name,kind\n" + "".join(f"n{index},stile\n" for index in range(1000))
    message = rejection(manifest(tmp_path, "{file: l.csv}", "l.csv", table))
    assert "has 1000 problems" in message
    assert message.count("nearest: style") == MAX_SHOWN_PROBLEMS
    assert message.endswith(f"and {1000 - MAX_SHOWN_PROBLEMS} more problems")
