"""What a good manifest means: its defaults, and what is resolved while it is loaded."""

import hashlib
import unicodedata
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from conceptprune.errors import ManifestError
from conceptprune.manifest import (
    BuiltinModel,
    FillerPair,
    FolderModel,
    HubModel,
    Kind,
    Manifest,
    concept_key,
    load_manifest,
    parse_manifest,
)
from conceptprune.prompts.pairs import prompt_pairs

SHIPPED = sorted((Path(__file__).parents[3] / "manifests").glob("*.yaml"))
MINIMAL = "version: 1\nmodel: {builtin: studio}\nconcepts: [{name: Van Gogh, kind: style}]\n"


def parse(text: str) -> Manifest:
    return parse_manifest(text, source="m.yaml", folder=Path("/manifests"))


def test_the_manifests_of_the_paper_are_shipped() -> None:
    names = ("artists", "nudity", "objects", "gender", "memorised")
    assert {f"paper-{name}" for name in names} <= {path.stem for path in SHIPPED}


# With the captions that its user brings, paper-memorised is loaded beside its suite: test_suite.py.
@pytest.mark.parametrize(
    "path", [path for path in SHIPPED if "memorize_" not in path.read_text()], ids=lambda p: p.stem
)
def test_every_shipped_manifest_is_valid(path: Path) -> None:
    assert load_manifest(path).concepts


def test_the_defaults_are_the_published_settings() -> None:
    manifest = parse(MINIMAL)
    assert manifest.model == BuiltinModel(builtin="studio")
    assert manifest.collection.model_dump() == {
        "steps": 50,
        "tau": 10,
        "guidance": 7.5,
        "guidance_halves": "both",
        "scheduler": None,
        "resolution": None,
        "seed": 0,
        "batch_size": 8,
        "shard_prompts": 32,
        "window": None,
        "dtype": None,
        "device": "auto",
    }
    assert manifest.pruning.model_dump() == {
        "selector": "conceptprune",
        "sparsity": 0.01,
        "tau": None,
        "threshold": 0.0,
        "min_per_row": 0,
        "r1": 0.05,
        "r2": 0.02,
        "site": "ffn_out",
        "base": "plain",
    }
    assert manifest.outputs.model_dump() == {
        "deltas": False,
        "pipelines": False,
        "fuse": None,
        "preview": None,
    }
    assert manifest.compute.model_dump() == {
        "actors": 2,
        "cpus_per_actor": 1.0,
        "gpus_per_actor": 0.0,
        "threads_per_actor": 1,
        "max_attempts": 3,
        "offload": "encoders",
        "claim_seconds": 30.0,
    }


def test_a_preview_can_be_asked_for_with_its_defaults() -> None:
    preview = parse(MINIMAL + "outputs: {preview: {}}").outputs.preview
    assert preview is not None
    assert (preview.seeds, preview.judge, preview.prompts_per_concept) == ((0, 1), None, 4)


@pytest.mark.parametrize(
    ("written", "how", "alpha", "fraction"),
    [
        ("union", "union", None, None),
        ("true", "budget", None, None),
        ("retain-shared", "retain-shared", None, None),
        ("{how: retain-shared, alpha: 0.6}", "retain-shared", 0.6, None),
        ("{how: budget, fraction: 0.01}", "budget", None, 0.01),
    ],
)
def test_a_fusion_is_a_name_or_a_section(
    written: str, how: str, alpha: float | None, fraction: float | None
) -> None:
    fuse = parse(MINIMAL + f"outputs: {{fuse: {written}}}").outputs.fuse
    assert fuse is not None
    assert (fuse.how, fuse.alpha, fuse.fraction) == (how, alpha, fraction)


def test_false_fuses_nothing() -> None:
    assert parse(MINIMAL + "outputs: {fuse: false}").outputs.fuse is None


def test_a_relative_model_folder_is_relative_to_the_manifest(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(MINIMAL.replace("builtin: studio", "folder: models/mine"))
    assert load_manifest(path).model == FolderModel(folder=str(tmp_path / "models/mine"))


def test_an_absolute_model_folder_stays() -> None:
    manifest = parse(MINIMAL.replace("builtin: studio", "folder: /models/mine"))
    assert manifest.model == FolderModel(folder="/models/mine")


def test_a_hub_model_is_pinned() -> None:
    manifest = parse(MINIMAL.replace("builtin: studio", f"hub: a/b.c, revision: {'0a' * 20}"))
    # The revision has digits first, but is text all the same.
    assert manifest.model == HubModel(hub="a/b.c", revision="0a" * 20)


@pytest.mark.parametrize("written", ["0.001", "1e-3", "1.0e-3", ".001"])
def test_a_small_number_may_be_written_in_any_usual_way(written: str) -> None:
    assert parse(MINIMAL + f"pruning: {{sparsity: {written}}}").pruning.sparsity == 0.001


def test_names_that_yaml_would_misread_are_fine_in_quotes() -> None:
    manifest = parse(MINIMAL.replace("Van Gogh", '"no"'))
    assert manifest.concepts[0].name == "no"


def test_the_manifests_fillers_go_to_concepts_of_their_kind_that_have_none() -> None:
    manifest = parse(
        "version: 1\n"
        "model: {builtin: studio}\n"
        "fillers: {style: [cat, tree]}\n"
        "concepts:\n"
        "  - {name: a, kind: style}\n"
        "  - {name: b, kind: style, fillers: [boat]}\n"
        "  - {name: c, kind: style, prompts: [{base: x, target: y}]}\n"
        "  - {name: d, kind: object}\n"
        "  - {name: e, kind: object, fillers: [{base: road, target: on a road}]}\n"
        "retain:\n"
        "  - {name: f, kind: style}\n"
    )
    assert [concept.fillers for concept in (*manifest.concepts, *manifest.retain)] == [
        ("cat", "tree"),
        ("boat",),
        None,
        None,
        (FillerPair(base="road", target="on a road"),),
        ("cat", "tree"),
    ]


def test_a_manifest_cannot_be_changed() -> None:
    manifest = parse(MINIMAL)
    with pytest.raises(ValidationError, match="frozen"):
        manifest.collection.tau = 3  # type: ignore[misc]


def test_a_byte_order_mark_and_windows_line_ends_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + MINIMAL.replace("\n", "\r\n").encode())
    assert load_manifest(path) == parse(MINIMAL)


NAMES = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=200)


@given(names=st.lists(NAMES, min_size=1, max_size=8, unique_by=concept_key))
def test_any_visible_name_survives_and_loading_is_deterministic(names: list[str]) -> None:
    entries = "".join(
        "  - {name: '" + name.replace("'", "''") + "', kind: style}\n" for name in names
    )
    text = f"version: 1\nmodel: {{builtin: studio}}\nconcepts:\n{entries}"
    manifest = parse(text)
    assert [concept.name for concept in manifest.concepts] == names
    assert parse(text) == manifest
    assert Manifest.model_validate(manifest.model_dump()) == manifest


@given(name=st.text())
def test_the_key_of_a_name_is_stable(name: str) -> None:
    assert concept_key(concept_key(name)) == concept_key(name)


def test_a_concept_may_be_erased_and_also_be_retained_while_others_are(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(
        "version: 1\nmodel: {builtin: studio}\n"
        "concepts: [{name: Monet, kind: style}]\n"
        "retain: [{name: Monet, kind: style}, {name: Turner, kind: style}]\n",
        encoding="utf-8",
    )
    assert [concept.name for concept in load_manifest(path).retain] == ["Monet", "Turner"]


def test_captions_may_stand_in_a_file_beside_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_text(
        "# known\nThrow Pillow\n\n  A Podcast \n", encoding="utf-8"
    )
    path = tmp_path / "m.yaml"
    path.write_text(
        "version: 1\nmodel: {builtin: studio}\n"
        "concepts: [{name: x, kind: memorised, captions: {file: captions.txt}}]\n",
        encoding="utf-8",
    )
    manifest = load_manifest(path)
    assert manifest.concepts[0].captions == ("Throw Pillow", "A Podcast")
    # What is recorded of it needs the file no longer.
    assert Manifest.model_validate(manifest.model_dump()) == manifest


def test_a_file_of_captions_must_be_the_one_that_is_meant(tmp_path: Path) -> None:
    content = b"Throw Pillow\n"
    (tmp_path / "captions.txt").write_bytes(content)
    meant = hashlib.sha256(content).hexdigest()

    def with_digest(digest: str) -> Manifest:
        path = tmp_path / "m.yaml"
        captions = f"{{file: captions.txt, sha256: {digest}}}"
        path.write_text(
            "version: 1\nmodel: {builtin: studio}\n"
            f"concepts: [{{name: x, kind: memorised, captions: {captions}}}]\n"
        )
        return load_manifest(path)

    assert with_digest(meant).concepts[0].captions == ("Throw Pillow",)
    for other in ("a" * 64, "12", "[]"):
        with pytest.raises(ManifestError, match=rf"captions(.|\n)*sha256(.|\n)*which is {meant}"):
            with_digest(other)


def test_the_manifests_templates_go_to_concepts_of_their_kind_that_have_none() -> None:
    manifest = parse(
        "version: 1\n"
        "model: {builtin: studio}\n"
        'templates: {style: {base: "{filler}", target: "{filler} by {concept}"}}\n'
        "concepts:\n"
        "  - {name: a, kind: style, fillers: [cat]}\n"
        '  - {name: b, kind: style, template: {base: "a {filler}", target: "{filler} {concept}"}}\n'
        "  - {name: c, kind: object}\n"
    )
    assert [c.template and c.template.target for c in manifest.concepts] == [
        "{filler} by {concept}",
        "{filler} {concept}",
        None,
    ]
    (pair,) = prompt_pairs(manifest.concepts[0], seed=0)
    assert (pair.base.text, pair.target.text) == ("cat", "cat by a")


def test_five_hundred_painters_are_each_named_once_the_older_ones_first() -> None:
    path = next(path for path in SHIPPED if path.stem == "artists-500")
    names = [concept.name for concept in load_manifest(path).concepts]
    assert len(names) == 500
    # Accents, stops and hyphens do not make two of one painter.
    plain = {
        "".join(c for c in unicodedata.normalize("NFKD", name).casefold() if c.isalpha())
        for name in names
    }
    assert len(plain) == 500
    assert names[0] == "Leonardo da Vinci"
    assert names.index("Claude Monet") < names.index("Pablo Picasso")
    assert all(name == " ".join(name.split()) and name[0].isupper() for name in names)


def test_the_nightly_list_has_the_settings_of_each_kind_and_one_of_a_concepts_own() -> None:
    manifest = load_manifest(next(path for path in SHIPPED if path.stem == "nightly"))
    found = {each.name: manifest.pruning_of(each) for each in manifest.concepts}
    assert {name: (each.sparsity, each.tau) for name, each in found.items()} == {
        each.name: {
            "object": (0.02, None),
            "nudity": (0.01, 9),
            "custom": (0.02, None),
        }.get(each.kind, (0.01, None))
        for each in manifest.concepts
    }


def test_a_concept_can_be_erased_by_settings_of_its_own_and_retained() -> None:
    manifest = parse(
        "version: 1\nmodel: {builtin: studio}\n"
        "concepts:\n  - {name: x, kind: style, pruning: {sparsity: 0.02}}\n"
        "retain: [{name: x, kind: style}]\n"
    )
    assert manifest.pruning_of(manifest.concepts[0]).sparsity == 0.02


def test_the_nightly_list_has_every_kind_and_makes_prompts_of_all_of_them() -> None:
    path = next(path for path in SHIPPED if path.stem == "nightly")
    manifest = load_manifest(path)
    assert {concept.kind for concept in manifest.concepts} == set(get_args(Kind))
    for concept in (*manifest.concepts, *manifest.retain):
        pairs = prompt_pairs(concept, seed=0)
        assert len(pairs) >= 4
        assert all(pair.base != pair.target for pair in pairs)


def test_a_field_may_have_the_name_that_it_had_before() -> None:
    former = parse(MINIMAL + "collection: {guidance_halves: conditional}\n")
    assert former == parse(MINIMAL + "collection: {guidance_branches: conditional}\n")
    assert former.collection.guidance_branches == "conditional"


def test_a_caption_that_is_its_own_base_prompt_is_refused() -> None:
    captions = "captions: [A  cover, another], caption_base: a cover"
    with pytest.raises(ManifestError, match=r"caption_base(.|\n)*nothing to compare"):
        parse_manifest(
            f"version: 1\nmodel: {{builtin: studio}}\n"
            f"concepts: [{{name: x, kind: memorised, {captions}}}]\n",
            source="m.yaml",
            folder=Path(),
        )
