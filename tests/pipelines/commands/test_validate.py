"""`validate` finds all that is wrong and needs no model run, in manifests and suites."""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from conceptprune.errors import ManifestError, UserError
from pipelines.commands.validate import validate
from tests.pipelines.conftest import write_manifest

ROOT = Path(__file__).parents[3]


def refused(path: Path) -> str:
    with pytest.raises(UserError) as error:
        validate(path)
    return str(error.value)


def written(folder: Path, **changes: Any) -> Path:
    content = {
        "version": 1,
        "model": {"builtin": "studio"},
        "concepts": [{"name": "Ada Bell", "kind": "style"}],
        **changes,
    }
    path = folder / "m.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def test_a_manifest_and_a_suite_are_told_apart() -> None:
    assert validate(ROOT / "manifests" / "demo.yaml").endswith("concepts to erase")
    found = validate(ROOT / "manifests" / "suites" / "studio.yaml")
    assert found.endswith("good, a suite of 4 concepts and 1 scorers")


def test_a_wrong_suite_is_refused_as_a_suite(tmp_path: Path) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text("version: 1\nname: x\nmodel: {builtin: studio}\ngroups: {}\n", encoding="utf-8")
    message = refused(path)
    assert "groups.general" in message
    assert "concepts" not in message


@pytest.mark.parametrize("form", ["manifest", "list", "suite"])
def test_twice_as_many_concepts_take_twice_the_work_and_no_more(tmp_path: Path, form: str) -> None:
    """Counted in calls, which no machine's clock changes; 60,000 take 2 to 7 s of a CPU."""

    def of(number: int) -> Path:
        names = [f"Painter {index} of {index * 7919}" for index in range(number)]
        concepts = [{"name": name, "kind": "style"} for name in names]
        if form == "manifest":
            return written(tmp_path, concepts=concepts)
        if form == "list":
            (tmp_path / "names.txt").write_text("\n".join(names), encoding="utf-8")
            return written(tmp_path, concepts={"file": "names.txt", "kind": "style"})
        suite = yaml.safe_load((ROOT / "manifests" / "suites" / "studio.yaml").read_text())
        suite["groups"]["erased"] = [{"concept": concept} for concept in concepts]
        path = tmp_path / "suite.yaml"
        path.write_text(yaml.safe_dump(suite), encoding="utf-8")
        return path

    def calls(path: Path) -> int:
        count = 0

        def counted(*_: object) -> None:
            nonlocal count
            count += 1

        sys.setprofile(counted)
        try:
            validate(path)
        finally:
            sys.setprofile(None)
        return count

    # What is made at the first use only.
    validate(of(10))
    some, twice = (calls(of(number)) for number in (200, 400))
    assert 1.5 * some < twice < 2.2 * some


def test_every_folder_that_is_named_and_missing_is_told_at_once(tmp_path: Path) -> None:
    preview = {
        "scorers": [
            {"scorer": "judge", "weights": "judges/mine"},
            {"scorer": "classifier", "model": {"folder": "classifiers/mine"}},
        ]
    }
    path = written(tmp_path, model={"folder": "models/gone"}, outputs={"preview": preview})
    message = refused(path)
    assert "m.yaml has 3 problems:" in message
    for written_as in ("models/gone", "judges/mine", "classifiers/mine"):
        assert f"{written_as} is not there (looked for {tmp_path / written_as})" in message


def test_a_site_that_matches_nothing_of_a_model_at_hand_is_told(
    tiny_folder: Path, tmp_path: Path
) -> None:
    wrong = write_manifest(tmp_path / "w.yaml", tiny_folder, pruning={"site": r"re:.*ff\.net\.7"})
    assert "matches no linear of" in refused(wrong)
    for site in ("ffn_out", ["attn_key", "text_ffn"], r"re:.*ff\.net\.2"):
        good = write_manifest(tmp_path / "g.yaml", tiny_folder, pruning={"site": site})
        assert "good, 3 concepts" in validate(good)


@pytest.mark.parametrize(
    ("concept", "told"),
    [
        (
            {"kind": "custom", "prompts": [{"base": "a cat", "target": "a cat"}]},
            "prompts[0].target",
        ),
        (
            {"kind": "bias", "fillers": [{"base": "a man", "target": "a man"}]},
            "fillers[0]",
        ),
        (
            {"kind": "style", "template": {"base": "a {filler}", "target": "a nice {filler}"}},
            "a gap {concept}",
        ),
        (
            {"kind": "nudity", "template": {"base": "a {filler}", "target": "a {filler}"}},
            "another text than base",
        ),
    ],
)
def test_prompts_that_have_nothing_to_compare_are_refused(
    tmp_path: Path, concept: dict[str, Any], told: str
) -> None:
    assert told in refused(written(tmp_path, concepts=[{"name": "x", **concept}]))


@pytest.mark.parametrize(
    ("section", "field"),
    [
        ("collection", "steps"),
        ("collection", "batch_size"),
        ("compute", "actors"),
        ("compute", "max_attempts"),
    ],
)
def test_numbers_beyond_all_measure_are_refused(tmp_path: Path, section: str, field: str) -> None:
    assert f"{section}.{field}" in refused(written(tmp_path, **{section: {field: 10**9}}))


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "m.yaml"
    os.mkfifo(pipe)
    with pytest.raises(ManifestError, match="cannot be read: not a regular file"):
        validate(pipe)


@pytest.mark.parametrize(
    ("file", "data"),
    [
        ("unet/diffusion_pytorch_model.safetensors", b"\xff" * 100),
        ("model_index.json", b"[" * 100_000),
    ],
)
def test_a_models_file_that_is_none_is_told_in_a_line_that_names_it(
    tmp_path: Path, tiny_folder: Path, file: str, data: bytes
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    (folder / file).write_bytes(data)
    assert str(folder / file) in refused(written(tmp_path, model={"folder": "model"}))
