"""The manifest that `tune` writes: the given one with the strengths, whatever it says else."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from conceptprune.errors import UserError
from conceptprune.evaluation.job_manifest import load_job_manifest
from conceptprune.evaluation.suite import Suite
from conceptprune.manifest.fields import Name, concept_key
from pipelines.jobs.tuned_manifest import FIRST_LINE, Choosing, check_out, tuned_text

CONTENT: dict[str, Any] = {
    "version": 1,
    "model": {"builtin": "studio"},
    "concepts": [{"name": "Ada Bell", "kind": "style"}],
}
CHOOSING = Choosing(
    suite=Suite.model_validate(
        {
            "version": 1,
            "name": "mine",
            "model": {"builtin": "studio"},
            "groups": {"general": [{"name": "photos", "prompts": ["a photo"]}]},
            "generation": {"seeds": [7, 8]},
            "scorers": [{"scorer": "studio-judge"}],
        }
    ),
    sha256="5" * 64,
    gone=0.05,
)


class Quoting(yaml.SafeDumper):
    """Puts each text in quotes, so that it is read as it is meant whatever it looks like."""


Quoting.add_representer(
    str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')
)


def is_name(text: str) -> bool:
    try:
        TypeAdapter(Name).validate_python(text)
    except ValidationError:
        return False
    return True


NAMES = st.one_of(
    st.sampled_from(
        ["1e3", "yes", "null", "~", "0o7", "1:30", "- a", "a: b", "# x", "'", '"', "é"]
    ),
    st.text(min_size=1, max_size=30).filter(is_name),
)


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "m.yaml"
    path.write_text(
        yaml.dump({**CONTENT, **changes}, Dumper=Quoting, sort_keys=False), encoding="utf-8"
    )
    return path


def written(manifest: Path, text: str) -> Path:
    path = manifest.with_name("tuned.yaml")
    path.write_text(text, encoding="utf-8")
    return path


@given(
    st.lists(NAMES, min_size=1, max_size=4, unique_by=concept_key),
    st.floats(min_value=1e-9, max_value=1, allow_subnormal=False),
)
def test_whatever_the_names_the_manifest_reads_back_as_it_was_but_for_the_strengths(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], k: float
) -> None:
    folder = tmp_path_factory.mktemp("tuned")
    concepts = [{"name": name, "kind": "style", "pruning": {"tau": 3}} for name in names]
    manifest = write(folder, concepts=concepts, retain=[{"name": "Cy Dow", "kind": "style"}])
    before = load_job_manifest(manifest)
    after = load_job_manifest(
        written(manifest, tuned_text(manifest, CHOOSING, {names[0]: k}, None))
    )
    assert [concept.name for concept in after.concepts] == names
    assert after.pruning_of(after.concepts[0]).sparsity == k
    assert after.pruning_of(after.concepts[0]).tau == 3
    assert after.concepts[1:] == before.concepts[1:]
    assert after.model_copy(update={"concepts": ()}) == before.model_copy(update={"concepts": ()})


def test_a_list_of_concepts_is_written_out_with_its_own_settings(tmp_path: Path) -> None:
    text = "name,pruning.tau,fillers\nAda Bell,2,cat|car\nCy Dow,,\n"
    (tmp_path / "names.csv").write_text(text, encoding="utf-8")
    manifest = write(tmp_path, concepts={"file": "names.csv", "kind": "style"})
    path = written(
        manifest, tuned_text(manifest, CHOOSING, {"Cy Dow": 0.04, "Ada Bell": 0.01}, None)
    )
    assert yaml.safe_load(path.read_text("utf-8"))["concepts"] == [
        {
            "kind": "style",
            "name": "Ada Bell",
            "pruning": {"tau": 2, "sparsity": 0.01},
            "fillers": ["cat", "car"],
        },
        {"kind": "style", "name": "Cy Dow", "pruning": {"sparsity": 0.04}},
    ]


def test_the_strengths_of_a_rewording_take_the_place_of_its_own(tmp_path: Path) -> None:
    manifest = write(tmp_path, method="reword", reword={"retain": 2.0, "words": 10})
    strengths = {"retain": 4.0, "base": 12.0, "empty": 3.0, "vocabulary": 2.0}
    found = load_job_manifest(written(manifest, tuned_text(manifest, CHOOSING, {}, strengths)))
    assert found.rewording
    assert found.rewording.model_dump(include=strengths.keys()) == strengths
    assert found.rewording.words == 10


def test_its_first_lines_say_by_which_suite_and_seeds_it_was_chosen(tmp_path: Path) -> None:
    head = tuned_text(write(tmp_path), CHOOSING, {"Ada Bell": 0.01}, None).split("version")[0]
    assert head.startswith(FIRST_LINE)
    assert all(line.startswith("# ") for line in head.splitlines())
    for text in ("m.yaml", "mine", "5" * 64, "seeds 7, 8", "other seeds"):
        assert text in head


def test_a_manifest_that_was_changed_meanwhile_is_not_written(tmp_path: Path) -> None:
    manifest = write(tmp_path, concepts=[{"name": "Cy Dow", "kind": "style"}])
    with pytest.raises(UserError, match="changed while it was tuned"):
        tuned_text(manifest, CHOOSING, {"Ada Bell": 0.01}, None)


def test_only_a_tuned_manifest_is_replaced(tmp_path: Path) -> None:
    manifest = write(tmp_path)
    check_out(tmp_path / "new.yaml", manifest)
    check_out(written(manifest, tuned_text(manifest, CHOOSING, {}, None)), manifest)
    with pytest.raises(UserError, match="not a manifest that tune wrote"):
        check_out(manifest, manifest)
    with pytest.raises(UserError, match="cannot be written"):
        check_out(tmp_path, manifest)
    with pytest.raises(UserError, match="is not a folder"):
        check_out(tmp_path / "none" / "new.yaml", manifest)


def test_a_manifest_with_relative_paths_stays_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("Ada Bell\n", encoding="utf-8")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    listed = {"file": "names.txt", "kind": "style"}
    # A list of what to erase is written out.
    check_out(elsewhere / "t.yaml", write(tmp_path, concepts=listed))
    manifest = write(tmp_path, retain={**listed, "file": "./names.txt"})
    with pytest.raises(UserError, match=r"relative to its folder \(retain: \./names\.txt\)"):
        check_out(elsewhere / "t.yaml", manifest)
