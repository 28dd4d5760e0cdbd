"""A unit's key holds all that decides its result, and nothing else: every field of a manifest says
which kinds of units it makes anew, and the keys themselves are pinned."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from conceptprune import digest
from conceptprune.manifest import Manifest, parse_manifest
from conceptprune.manifest.model_settings import ModelSettings
from conceptprune.manifest.pruning import ConceptPruning
from conceptprune.prompts.pairs import prompt_pairs
from conceptprune.units.plan import build_plan
from conceptprune.units.prompts_units import concepts_in, prompts_units
from tests.support.key_tables import changed, fields, merged, sections_in

Content = dict[str, Any]

BASE: Content = {
    "version": 1,
    "model": {"folder": "tiny"},
    "concepts": [
        {"name": "Ada Bell", "kind": "style"},
        {"name": "snow", "kind": "object"},
        {"name": "gender", "kind": "bias", "direction": "male_to_female"},
        {
            "name": "a known image",
            "kind": "memorised",
            "captions": ["the known image", "it once more"],
            "caption_base": "an image",
        },
    ],
    "retain": [{"name": "Eve Fox", "kind": "style"}],
    "collection": {"steps": 20, "tau": 6, "window": 3, "shard_prompts": 8, "dtype": "float32"},
    "pruning": {"base": "plain+retained-mean", "sparsity": 0.01},
    "sweep": {"sparsity": [0.01, 0.02]},
    "outputs": {"deltas": True, "fuse": "union", "preview": {}},
}

PROMPTS = {"prompts"}
COLLECTED = {"window", "statistics"}
SELECTED = {"mask", "sweep", "sweep-table", "fused-mask"}
MADE = {"checkpoint", "preview"}
FROM_STATISTICS = {*COLLECTED, *SELECTED, *MADE}
FROM_PROMPTS = {*PROMPTS, *FROM_STATISTICS}
FROM_MASKS = {*SELECTED, *MADE}
NONE: set[str] = set()

STYLE = {"base": "a view of a {filler}", "target": "a {filler} as {concept} has it"}

# field -> (what is changed, the kinds of units that become others)
FIELDS: Mapping[str, tuple[Content, set[str]]] = {
    "collection.steps": ({"steps": 21}, FROM_STATISTICS),
    "collection.tau": ({"tau": 5}, FROM_STATISTICS),
    "collection.guidance": ({"guidance": 3.0}, FROM_STATISTICS),
    "collection.guidance_branches": ({"guidance_branches": "conditional"}, FROM_STATISTICS),
    "collection.scheduler": ({"scheduler": "DDIMScheduler"}, FROM_STATISTICS),
    "collection.resolution": ({"resolution": 64}, FROM_STATISTICS),
    "collection.seed": ({"seed": 1}, FROM_PROMPTS),
    "collection.batch_size": ({"batch_size": 4}, FROM_STATISTICS),
    "collection.shard_prompts": ({"shard_prompts": 4}, FROM_STATISTICS),
    # Where a trajectory is cut changes no sum.
    "collection.window": ({"window": 2}, {"window"}),
    "collection.dtype": ({"dtype": "float16"}, FROM_STATISTICS),
    "collection.device": ({"device": "cpu"}, NONE),
    "pruning.selector": ({"selector": "fia", "sparsity": None}, FROM_MASKS),
    "pruning.sparsity": ({"sparsity": 0.03}, FROM_MASKS),
    "pruning.tau": ({"tau": 4}, FROM_MASKS),
    "pruning.threshold": ({"threshold": 0.5}, FROM_MASKS),
    "pruning.min_per_row": ({"min_per_row": 1}, FROM_MASKS),
    "pruning.r1": ({"selector": "fia", "sparsity": None, "r1": 0.1}, FROM_MASKS),
    "pruning.r2": ({"selector": "fia", "sparsity": None, "r2": 0.1}, FROM_MASKS),
    "pruning.site": ({"site": "ffn_in"}, FROM_STATISTICS),
    "pruning.base": ({"base": "plain+retained-max"}, FROM_MASKS),
    "sweep.selector": ({"selector": ["fia"], "sparsity": None}, {"sweep", "sweep-table"}),
    "sweep.sparsity": ({"sparsity": [0.01, 0.05]}, {"sweep", "sweep-table"}),
    "sweep.tau": ({"tau": [2]}, {"sweep", "sweep-table"}),
    "sweep.threshold": ({"threshold": [0.5]}, {"sweep", "sweep-table"}),
    "sweep.r1": ({"selector": ["fia"], "sparsity": None, "r1": [0.2]}, {"sweep", "sweep-table"}),
    "sweep.r2": ({"selector": ["fia"], "sparsity": None, "r2": [0.2]}, {"sweep", "sweep-table"}),
    "outputs.deltas": ({"deltas": False}, {"checkpoint"}),
    "outputs.pipelines": ({"pipelines": True}, {"checkpoint"}),
    "outputs.fuse.how": ({"fuse": "retain-shared"}, {"fused-mask", *MADE}),
    "outputs.fuse.alpha": (
        {"fuse": {"how": "retain-shared", "alpha": 0.5}},
        {"fused-mask", *MADE},
    ),
    "outputs.fuse.fraction": (
        {"fuse": {"how": "budget", "fraction": 0.1}},
        {"fused-mask", *MADE},
    ),
    "outputs.preview.seeds": ({"preview": {"seeds": [5]}}, {"preview"}),
    "outputs.preview.steps": ({"preview": {"steps": 9}}, {"preview"}),
    "outputs.preview.guidance": ({"preview": {"guidance": 2.0}}, {"preview"}),
    # What looks at images leaves them as they are; its own units are in
    # tests/conceptprune/evaluation/test_job_manifest.py.
    "outputs.preview.scorers": ({"preview": {"scorers": [{"scorer": "studio-judge"}]}}, NONE),
    "outputs.preview.judge": ({"preview": {"judge": "studio"}}, NONE),
    "outputs.preview.of": ({"preview": {"of": "combined"}}, {"preview"}),
    "outputs.preview.batch_size": ({"preview": {"batch_size": 3}}, {"preview"}),
    "outputs.preview.prompts_per_concept": ({"preview": {"prompts_per_concept": 2}}, {"preview"}),
    "outputs.preview.retained_prompts": ({"preview": {"retained_prompts": 2}}, {"preview"}),
    "compute.actors": ({"actors": 7}, NONE),
    "compute.cpus_per_actor": ({"cpus_per_actor": 2.0}, NONE),
    "compute.gpus_per_actor": ({"gpus_per_actor": 1.0}, NONE),
    "compute.threads_per_actor": ({"threads_per_actor": 2}, NONE),
    "compute.max_attempts": ({"max_attempts": 9}, NONE),
    "compute.offload": ({"offload": "none"}, NONE),
    "compute.claim_seconds": ({"claim_seconds": 60.0}, NONE),
    "fillers.style": ({"style": ["cat", "dog", "car"]}, FROM_PROMPTS),
    "fillers.object": ({"object": ["road", "park"]}, FROM_PROMPTS),
    "templates.style.base": ({"style": STYLE}, FROM_PROMPTS),
    "templates.style.target": (
        {"style": {**STYLE, "base": "a photo of a {filler}"}},
        FROM_PROMPTS,
    ),
}
"""Changes of one section, by the dotted name of the field that they are about."""

REWORD_BASE: Content = {
    **BASE,
    "method": "reword",
    "outputs": {"pipelines": True, "preview": {}},
}

SUMS = {"shift", "moments", "vocabulary"}
REWORDED = {"reword", *MADE}

REWORD: Mapping[str, tuple[Content, set[str]]] = {
    "reword.retain": ({"retain": 2.0}, REWORDED),
    "reword.base": ({"base": 2.0}, REWORDED),
    "reword.empty": ({"empty": 2.0}, REWORDED),
    "reword.vocabulary": ({"vocabulary": 2.0}, REWORDED),
    "reword.words": ({"words": 100}, {"vocabulary", *REWORDED}),
    "reword.ridge": ({"ridge": 0.01}, REWORDED),
    "reword.fillers.style": ({"fillers": {"style": ["boat"]}}, {"shift", "moments", *REWORDED}),
    # Words of a target's wording that its base lacks are no common words that stay.
    "reword.templates.style": ({"templates": {"style": [STYLE]}}, {*SUMS, *REWORDED}),
    "collection.dtype": ({"dtype": "float16"}, {*SUMS, *REWORDED, *COLLECTED, *SELECTED}),
    # What a prompt's words are is decided without denoising.
    "collection.steps": ({"steps": 21}, FROM_STATISTICS - {"fused-mask"}),
    "collection.batch_size": ({"batch_size": 4}, FROM_STATISTICS - {"fused-mask"}),
    "fillers.style": ({"style": ["cat", "dog"]}, {*FROM_PROMPTS, "shift", "moments", "reword"}),
    "templates.style": ({"style": STYLE}, {*FROM_PROMPTS, *SUMS, "reword"}),
}
"""The same where concepts are reworded."""

CONCEPT: Mapping[str, tuple[int, Content, set[str]]] = {
    "name": (0, {"name": "Ada Bells"}, FROM_PROMPTS),
    "kind": (1, {"kind": "style"}, FROM_PROMPTS),
    "prompts": (0, {"prompts": [{"base": "a cat", "target": "a cat by Bell"}]}, FROM_PROMPTS),
    "template": (0, {"template": STYLE}, FROM_PROMPTS),
    "fillers": (0, {"fillers": ["cat", "dog"]}, FROM_PROMPTS),
    # What was collected of either side is the same, the other way round.
    "direction": (2, {"direction": "female_to_male"}, FROM_PROMPTS - COLLECTED),
    "captions": (3, {"captions": ["the known image"]}, FROM_PROMPTS),
    "caption_base": (3, {"caption_base": "a painting"}, FROM_PROMPTS),
    # Prompts and statistics are shared with those whose settings differ.
    "pruning": (0, {"pruning": {"sparsity": 0.03}}, FROM_MASKS),
    "pruning.selector": (0, {"pruning": {"selector": "fia"}}, FROM_MASKS),
    "pruning.tau": (0, {"pruning": {"tau": 4}}, FROM_MASKS),
    "pruning.threshold": (0, {"pruning": {"threshold": 0.5}}, FROM_MASKS),
    "pruning.min_per_row": (0, {"pruning": {"min_per_row": 1}}, FROM_MASKS),
    "pruning.r1": (0, {"pruning": {"selector": "fia", "r1": 0.1}}, FROM_MASKS),
    "pruning.r2": (0, {"pruning": {"selector": "fia", "r2": 0.1}}, FROM_MASKS),
}
"""Changes of the concept with that index."""


def plan_keys(content: Content, **model: Any) -> dict[str, set[str]]:
    """Keys of all units of a manifest's plan, prompt units too, by kind."""
    manifest = parse_manifest(yaml.safe_dump(content), source="m.yaml", folder=Path())
    settings = ModelSettings(
        source=manifest.model,
        identity=model.get("identity", "f" * 64),
        pipeline="StableDiffusionPipeline",
        dtype=manifest.dtype,
        device=manifest.collection.device,
        scheduler=manifest.collection.scheduler,
        resolution=manifest.collection.resolution,
    )
    units = prompts_units(manifest)
    pairs = {
        concept.name: prompt_pairs(concept, seed=unit.seed)
        for unit in units
        for concept in concepts_in(unit)
    }
    plan = build_plan(manifest, settings, pairs)
    found: dict[str, set[str]] = {}
    for unit in (*units, *plan.units()):
        name = type(unit).__name__.removesuffix("Unit")
        kind = re.sub("(?<=[a-z])(?=[A-Z])", "-", name).lower()
        found.setdefault(kind, set()).add(unit.key)
    return found


@pytest.fixture(scope="module")
def base() -> dict[str, set[str]]:
    return plan_keys(BASE)


def test_the_manifest_that_all_is_compared_with_has_every_kind(base: dict[str, set[str]]) -> None:
    assert set(base) == {*FROM_PROMPTS}


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_changes_the_keys_of_what_it_decides_and_no_others(
    field: str, base: dict[str, set[str]]
) -> None:
    change, kinds = FIELDS[field]
    section = field.split(".")[0]
    content = {**BASE, section: merged(BASE.get(section, {}), change)}
    assert changed(base, plan_keys(content)) == kinds


@pytest.mark.parametrize("field", REWORD)
def test_a_field_changes_the_keys_of_what_it_decides_in_a_rewording(field: str) -> None:
    change, kinds = REWORD[field]
    section = field.split(".")[0]
    content = {**REWORD_BASE, section: merged(REWORD_BASE.get(section, {}), change)}
    assert changed(plan_keys(REWORD_BASE), plan_keys(content)) == kinds - {"fused-mask"}


def test_rewording_takes_the_place_of_fusing_and_changes_no_key_of_the_concepts_own() -> None:
    fused, reworded = plan_keys(BASE), plan_keys(REWORD_BASE)
    assert changed(fused, reworded) == {*SUMS, "reword", "fused-mask", *MADE}
    assert reworded.keys() == {*SUMS, "reword", *FROM_PROMPTS} - {"fused-mask"}


def test_a_late_concept_adds_its_own_sums_and_changes_those_of_words_alone() -> None:
    late = {"name": "Gil Hart", "kind": "style"}
    before = plan_keys(REWORD_BASE)
    after = plan_keys({**REWORD_BASE, "concepts": [*REWORD_BASE["concepts"], late]})
    assert before["shift"] < after["shift"]
    assert len(after["shift"]) == len(before["shift"]) + 1
    assert before["moments"] == after["moments"]
    # A name's words are not kept, so that they can be reworded.
    assert before["vocabulary"] != after["vocabulary"]


def test_no_word_is_summed_where_none_is_asked_for() -> None:
    assert "vocabulary" not in plan_keys({**REWORD_BASE, "reword": {"words": 0}})


@pytest.mark.parametrize("field", CONCEPT)
def test_a_concepts_field_changes_its_prompts_and_all_that_is_made_of_them(
    field: str, base: dict[str, set[str]]
) -> None:
    index, change, kinds = CONCEPT[field]
    concepts = [dict(concept) for concept in BASE["concepts"]]
    concepts[index] |= change
    assert changed(base, plan_keys({**BASE, "concepts": concepts})) == kinds


@pytest.mark.parametrize("written", [{}, {"sparsity": 0.01}, {"tau": None, "threshold": 0.0}])
def test_what_a_concept_says_as_all_have_it_changes_no_key(
    written: Content, base: dict[str, set[str]]
) -> None:
    concepts = [{**concept, "pruning": dict(written)} for concept in BASE["concepts"]]
    assert plan_keys({**BASE, "concepts": concepts}) == base


def test_a_retained_concept_is_in_the_masks_that_are_compared_with_it(
    base: dict[str, set[str]],
) -> None:
    more = {**BASE, "retain": [*BASE["retain"], {"name": "Cy Dorn", "kind": "style"}]}
    assert "mask" in changed(base, plan_keys(more))


def test_another_model_makes_everything_but_prompts_anew(base: dict[str, set[str]]) -> None:
    assert changed(base, plan_keys(BASE, identity="e" * 64)) == FROM_STATISTICS


def test_where_the_model_lies_changes_no_key(
    base: dict[str, set[str]],
) -> None:
    elsewhere = plan_keys({**BASE, "model": {"folder": "elsewhere/tiny"}})
    assert changed(base, elsewhere) == NONE


def test_whether_a_window_keeps_its_state_is_in_its_key() -> None:
    # Calls 3-5 are the last of six, and not the last of nine.
    ends = plan_keys(BASE)["window"]
    goes_on = plan_keys({**BASE, "collection": {**BASE["collection"], "tau": 9}})["window"]
    shards = len(ends) // 2
    assert len(ends & goes_on) == shards


def test_the_methods_version_is_in_every_key(
    base: dict[str, set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digest, "METHOD_VERSION", digest.METHOD_VERSION + 1)
    newer = plan_keys(BASE)
    assert {kind for kind in base if base[kind] & newer[kind]} == NONE


ELSEWHERE = {
    "version": "there is only one",
    "model": "by its files' digest: test_another_model_makes_everything_but_prompts_anew",
    "concepts": "CONCEPT",
    "retain": "test_a_retained_concept_is_in_the_masks_that_are_compared_with_it",
    "prompts": "tests/conceptprune/prompts/test_fillers.py",
    "method": "test_rewording_takes_the_place_of_fusing_and_changes_no_key_of_the_concepts_own",
    "reword.retain": "REWORD",
    "reword.base": "REWORD",
    "reword.empty": "REWORD",
    "reword.vocabulary": "REWORD",
    "reword.words": "REWORD",
    "reword.ridge": "REWORD",
    "reword.fillers.style": "REWORD",
    "reword.fillers.nudity": "as reword.fillers.style",
    "reword.fillers.object": "as reword.fillers.style",
    "reword.templates.style": "REWORD",
    "reword.templates.nudity": "as reword.templates.style",
    "reword.templates.object": "as reword.templates.style",
    "reword.templates.bias": "as reword.templates.style",
    "fillers.nudity": "as fillers.style",
    "templates.nudity": "as templates.style",
    "templates.object": "as templates.style",
    "templates.bias": "as templates.style",
}
"""Fields that have no row above, and where they are instead."""


def test_every_field_of_a_manifest_has_its_row() -> None:
    assert {*fields(Manifest, ELSEWHERE)} == {*FIELDS, *ELSEWHERE}
    concept = Manifest.model_fields["concepts"].annotation
    (section,) = sections_in(concept)
    own = {f"pruning.{name}" for name in ConceptPruning.model_fields} - {"pruning.sparsity"}
    assert {*section.model_fields, *own} == set(CONCEPT)


GOLDEN = {
    "prompts": "ecb15fe11ef4dc51ac4ad5c42f91da669ca28eea38fa1bb0815a93e241153870",
    "window": "019ed09de209c8e9ac79415011f02ee759702391800ddf102efeb51bbfcdd374",
    "statistics": "2ec29b2541689a08e48fe1d970341403b35826ff7a59b2df4f6f004f3de0caf5",
    "mask": "0228999bf4cd63086fd5334625637232ad82bd46bfa61a96411ed954dd39f877",
    "sweep": "30ca55bf8c39acc57295b48cb7410745841961f3b2c7269776349789922a2c6a",
    "sweep-table": "d07bc9f7621e7a0b051764e949a29cd89a95969e7722ff5381e3a545c5b9b7be",
    "fused-mask": "b74df3fd54db0ecece8b87bb983d164f0574d4735ddcee7cdab1a686390431e3",
    "checkpoint": "51edb601760fb235d5e2fc68b3f9800e0a0494c8fd29d7c6cd55ba75fff859c3",
    "shift": "23d078f6640fe86d3e4e0b2e861fab57197a97360aff6ea271587128f95cde89",
    "moments": "049e21ac73785f46c197284f2c361fcfb82bf43fcd4bfae6be6ed9216ac254ef",
    "vocabulary": "355d624fca78c0a5d2a86cd607b64cf76fb9a6939e1491c0bc9c43f204a6e0a6",
    "reword": "855e8d213a1e30fcc13df8c96a1d52b2f079b27b671212608fee24e7ff685570",
    "preview": "04fe7e1f2893fb8ebb4e17c653e69607db2eb037e5c4ffe8e783696038492d51",
}


def test_the_keys_of_a_small_manifest_are_these(monkeypatch: pytest.MonkeyPatch) -> None:
    # The versions of libraries are part of what a mask says, and so of its key.
    monkeypatch.setattr("conceptprune.units.plan.versions", lambda: {"torch": "2.13.0"})
    monkeypatch.setattr("conceptprune.units.reword_plan.versions", lambda: {"torch": "2.13.0"})
    both = {**plan_keys(REWORD_BASE), **plan_keys(BASE)}
    assert {kind: sorted(found)[0] for kind, found in both.items()} == GOLDEN
