"""Which texts a rewording is made from."""

import json
from pathlib import Path
from typing import Any

from conceptprune.manifest import parse_manifest
from conceptprune.manifest.model_settings import ModelSettings
from conceptprune.prompts.pairs import prompt_pairs
from conceptprune.units.reword_plan import reword_units
from conceptprune.units.reword_units import MomentsUnit, ShiftUnit, VocabularyUnit
from conceptprune.units.run_id import run_id

MANIFEST: dict[str, Any] = {
    "version": 1,
    "model": {"folder": "tiny"},
    "method": "reword",
    "fillers": {"style": ["cat"]},
    "concepts": [
        {"name": "Ada Bell", "kind": "style"},
        {"name": "Ink", "kind": "style", "prompts": [{"base": "a sea", "target": "a wave"}]},
    ],
    "retain": [{"name": "Bo Field", "kind": "style"}],
}


def planned(**reword: Any) -> tuple[str, list[Any]]:
    """The run's id, and the units of its rewording."""
    content = json.dumps({**MANIFEST, "reword": reword})
    manifest = parse_manifest(content, source="m.yaml", folder=Path())
    model = ModelSettings(
        source=manifest.model,
        identity="f" * 64,
        pipeline="StableDiffusionPipeline",
        dtype="float32",
        device="cpu",
        scheduler=None,
    )
    concepts = (*manifest.concepts, *manifest.retain)
    pairs = {each.name: prompt_pairs(each, seed=0) for each in concepts}
    names = [each.name for each in manifest.concepts]
    return run_id(manifest, model), reword_units(manifest, model, pairs, names)[1]


def test_its_own_fillers_add_texts_of_templates_and_leave_prompts_that_are_written_out() -> None:
    _, units = planned(fillers={"style": ["boat", "cat"], "nudity": ["nurse"]})
    assert [unit.pairs for unit in units if isinstance(unit, ShiftUnit)] == [
        (
            ("a photo of a cat", "a cat in the style of Ada Bell"),
            ("a photo of a boat", "a boat in the style of Ada Bell"),
        ),
        (("a sea", "a wave"),),
    ]
    assert {unit.texts for unit in units if isinstance(unit, MomentsUnit)} == {
        ("a cat in the style of Bo Field", "a boat in the style of Bo Field"),
        ("a photo of a cat", "a photo of a boat"),
        ("a sea",),
        ("",),
    }
    (vocabulary,) = (unit for unit in units if isinstance(unit, VocabularyUnit))
    assert "boat" not in vocabulary.without


def test_its_own_templates_add_wordings_of_the_concepts_fillers_and_of_its_own() -> None:
    by = {"base": "{filler}, art", "target": "{filler} by {concept}"}
    _, units = planned(fillers={"style": ["boat"]}, templates={"style": [by]})
    assert [unit.pairs for unit in units if isinstance(unit, ShiftUnit)] == [
        (
            ("a photo of a cat", "a cat in the style of Ada Bell"),
            ("a photo of a boat", "a boat in the style of Ada Bell"),
            ("cat, art", "cat by Ada Bell"),
            ("boat, art", "boat by Ada Bell"),
        ),
        (("a sea", "a wave"),),
    ]
    bases = ("a photo of a cat", "a photo of a boat", "cat, art", "boat, art")
    assert bases in {unit.texts for unit in units if isinstance(unit, MomentsUnit)}


def test_a_rewording_with_other_templates_is_another_run() -> None:
    by = {"base": "{filler}, art", "target": "{filler} by {concept}"}
    assert planned()[0] != planned(templates={"style": [by]})[0]
    assert planned()[0] == planned(templates={})[0]


def test_a_rewording_with_other_fillers_is_another_run() -> None:
    plain, boat = planned()[0], planned(fillers={"style": ["boat"]})[0]
    assert plain != boat
    assert plain == planned(fillers={})[0]
