"""The plan: what decides a unit's identity, what is shared, and what a change recomputes."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from conceptprune.manifest import parse_manifest
from conceptprune.manifest.model_settings import ModelSettings
from conceptprune.prompts.pairs import prompt_pairs
from conceptprune.units.plan import Plan, build_plan
from conceptprune.units.prompts_units import prompts_units
from conceptprune.units.units import FusedMaskUnit, PreviewUnit, StatisticsUnit, WindowUnit
from pipelines.scheduling.graph import units_to_do

ARTISTS = ("Ada Bell", "Cy Dorn")


def make_plan(*, artists: tuple[str, ...] = ARTISTS, **sections: Any) -> Plan:
    content: dict[str, Any] = {
        "version": 1,
        "model": {"builtin": "studio"},
        "concepts": [{"name": name, "kind": "style"} for name in artists],
        "collection": {"steps": 20, "tau": 6, "shard_prompts": 8},
    }
    for name, section in sections.items():
        content[name] = (
            section if isinstance(section, list) else {**content.get(name, {}), **section}
        )
    manifest = parse_manifest(yaml.safe_dump(content), source="m.yaml", folder=Path())
    collection = manifest.collection
    model = ModelSettings(
        source=manifest.model,
        identity="f" * 64,
        pipeline="StableDiffusionPipeline",
        dtype=manifest.dtype,
        device=collection.device,
        scheduler=collection.scheduler,
    )
    pairs = {
        concept.name: prompt_pairs(concept, seed=unit.seed)
        for unit in prompts_units(manifest)
        for concept in unit.concepts
    }
    return build_plan(manifest, model, pairs)


def keys(plan: Plan, kind: str | None = None) -> set[str]:
    return {unit.key for unit in plan.units() if kind in (None, unit.kind)}


def test_concepts_with_equal_base_prompts_share_their_base() -> None:
    plan = make_plan()
    bases = {concept.base.key for concept in plan.concepts}
    assert len(bases) == 1
    # 20 prompts in shards of 8 make 3 units per side; 2 targets and 1 base make 3 sides.
    assert (len(plan.of(WindowUnit)), len(plan.of(StatisticsUnit))) == (9, 3)
    evaluations = sum(unit.evaluations for unit in plan.units())
    assert evaluations == 3 * 20 * 2 * 6


def test_every_unit_comes_after_what_it_needs_and_is_a_concepts_own_or_all_togethers() -> None:
    plan = make_plan(
        collection={"window": 4},
        outputs={"deltas": True, "pipelines": True, "fuse": "union", "preview": {}},
    )
    concepts = plan.labels
    together = {
        unit.key for unit in (plan.combined, *plan.combined_checkpoints, *plan.combined_previews)
    }
    seen: set[tuple[str, str]] = set()
    for unit in plan.units():
        assert set(unit.needs) <= seen
        assert (unit.kind, unit.key) not in seen
        assert (unit.key in concepts) is (unit.key not in together)
        seen.add((unit.kind, unit.key))


def test_adding_a_concept_adds_its_own_units_only() -> None:
    before, after = make_plan(), make_plan(artists=(*ARTISTS, "Eve Fox"))
    assert keys(before) <= keys(after)
    assert len(keys(after) - keys(before)) == 3 + 1 + 1


def test_how_it_is_computed_changes_no_key() -> None:
    other = make_plan(compute={"actors": 7, "threads_per_actor": 1, "max_attempts": 9})
    assert keys(other) == keys(make_plan())
    assert other.run == make_plan().run


def test_another_k_reuses_all_statistics() -> None:
    before, after = make_plan(), make_plan(pruning={"sparsity": 0.05})
    assert keys(before, "window") == keys(after, "window")
    assert keys(before, "statistics") == keys(after, "statistics")
    assert not keys(before, "mask") & keys(after, "mask")


@pytest.mark.parametrize(
    "pruning",
    [{"selector": "fia"}, {"sparsity": 0.05}, {"threshold": 0.3}, {"tau": 3}],
    ids=str,
)
def test_another_selector_or_setting_leaves_masks_and_what_follows_to_do(
    pruning: dict[str, Any],
) -> None:
    outputs = {"deltas": True, "fuse": "union", "preview": {}}
    done = {(unit.kind, unit.key) for unit in make_plan(outputs=outputs).units()}
    plan = make_plan(outputs=outputs, pruning=pruning)
    left = units_to_do(plan, lambda kind, key: (kind, key) in done)
    assert {unit.kind for unit in left} == {"mask", "fused-mask", "checkpoint", "preview"}
    # Two concepts' masks and the fused one, and a delta of each; images with each concept's own
    # mask, and with the fused one of both concepts' prompts and of the base prompts they share.
    assert len(left) == 3 + 3 + 2 + 3


OF_EVERY_KIND: list[dict[str, Any]] = [
    {"name": "Ada Bell", "kind": "style"},
    {"name": "snow", "kind": "object"},
    {"name": "nudity", "kind": "nudity"},
    {"name": "gender", "kind": "bias", "direction": "male_to_female"},
    {"name": "known", "kind": "memorised", "captions": ["a known image"]},
]


@pytest.mark.parametrize(
    ("pruning", "collected", "name", "expected"),
    [
        # Nothing written: as published for the kind.
        ({}, 10, "sparsity", [0.01, 0.02, 0.01, 0.01, 0.01]),
        ({}, 10, "tau", [None, None, 9, None, None]),
        ({}, 12, "tau", [None, None, 9, 10, None]),
        # Never more calls than are collected.
        ({}, 6, "tau", [None] * 5),
        ({"selector": "fia"}, 10, "r2", [0.02, 0.007, 0.01, 0.02, 0.02]),
        ({"selector": "fia"}, 10, "r1", [0.05] * 5),
        # Written for all: it holds for all, the default's value and null too.
        ({"sparsity": 0.01}, 10, "sparsity", [0.01] * 5),
        ({"tau": None}, 10, "tau", [None] * 5),
        ({"selector": "fia", "r2": 0.03}, 10, "r2", [0.03] * 5),
    ],
)
def test_a_setting_that_is_not_written_is_the_published_one_of_the_concepts_kind(
    pruning: dict[str, Any], collected: int, name: str, expected: list[Any]
) -> None:
    plan = make_plan(
        concepts=OF_EVERY_KIND, collection={"steps": 50, "tau": collected}, pruning=pruning
    )
    assert [getattr(each.mask.pruning, name) for each in plan.concepts] == expected
    assert [each.mask.provenance["selection"][name] for each in plan.concepts] == expected


def test_what_a_concept_says_of_its_selection_counts_before_what_is_written_for_all() -> None:
    own = [{"sparsity": 0.3}, {"selector": "fia", "r1": 0.2}, {"tau": 2}, {"tau": None}, {}]
    concepts = [
        {**each, "pruning": pruning} for each, pruning in zip(OF_EVERY_KIND, own, strict=True)
    ]
    plan = make_plan(concepts=concepts, pruning={"sparsity": 0.05, "tau": 4})
    assert [each.mask.pruning.selection for each in plan.concepts] == [
        {"sparsity": 0.3, "threshold": 0.0, "min_per_row": 0, "tau": 4},
        {"r1": 0.2, "r2": 0.007, "tau": 4},
        {"sparsity": 0.05, "threshold": 0.0, "min_per_row": 0, "tau": 2},
        {"sparsity": 0.05, "threshold": 0.0, "min_per_row": 0, "tau": None},
        {"sparsity": 0.05, "threshold": 0.0, "min_per_row": 0, "tau": 4},
    ]


def test_a_concepts_own_settings_are_where_its_sweep_starts() -> None:
    concepts = [
        {"name": "Ada Bell", "kind": "style", "pruning": {"threshold": 0.5}},
        {"name": "Cy Dorn", "kind": "style"},
    ]
    plan = make_plan(concepts=concepts, sweep={"sparsity": [0.1, 0.2]})
    swept = [[s.threshold for unit in each.sweeps for s in unit.settings] for each in plan.concepts]
    assert swept == [[0.5, 0.5], [0.0, 0.0]]


def test_a_run_is_another_when_and_only_when_a_concept_is_selected_otherwise() -> None:
    def run(pruning: dict[str, Any] | None) -> str:
        section = {} if pruning is None else {"pruning": pruning}
        return make_plan(concepts=[{"name": "Ada Bell", "kind": "style", **section}]).run

    assert run({}) == run({"sparsity": 0.01}) == run(None) == make_plan(artists=("Ada Bell",)).run
    assert len({run(None), run({"sparsity": 0.02}), run({"tau": 3})}) == 3


@pytest.mark.parametrize(
    ("concepts", "alpha"),
    [(OF_EVERY_KIND[:1], 0.8), (OF_EVERY_KIND[1:3], 0.6), (OF_EVERY_KIND, 0.8)],
)
def test_shared_weights_are_kept_by_the_published_alpha_of_the_kinds(
    concepts: list[dict[str, Any]], alpha: float
) -> None:
    plan = make_plan(concepts=concepts, outputs={"fuse": "retain-shared"})
    assert isinstance(plan.combined, FusedMaskUnit)
    assert plan.combined.fusion.settings == {"alpha": alpha}
    written = make_plan(concepts=concepts, outputs={"fuse": {"how": "retain-shared", "alpha": 0.5}})
    assert isinstance(written.combined, FusedMaskUnit)
    assert written.combined.fusion.settings == {"alpha": 0.5}


def test_a_budget_needs_the_statistics_of_what_it_erases_and_of_what_it_spares() -> None:
    retain = [{"name": name, "kind": "style"} for name in ("Ada Bell", "Gil Hart")]
    plan = make_plan(outputs={"fuse": {"how": "budget", "fraction": 0.1}}, retain=retain)
    assert isinstance(plan.combined, FusedMaskUnit)
    # Gil Hart alone is spared: Ada Bell is erased too.
    assert (len(plan.combined.sides), len(plan.combined.retained)) == (2, 1)
    assert {key for kind, key in plan.combined.needs if kind == "statistics"} == set(
        plan.of(StatisticsUnit)
    )
    assert len(plan.of(StatisticsUnit)) == 4
    other = make_plan(outputs={"fuse": {"how": "budget", "fraction": 0.2}}, retain=retain)
    assert other.combined
    assert other.combined.key != plan.combined.key


def test_windows_change_what_is_done_but_not_its_results() -> None:
    whole, windowed = make_plan(), make_plan(collection={"window": 2})
    assert keys(whole, "statistics") == keys(windowed, "statistics")
    assert keys(whole, "mask") == keys(windowed, "mask")
    assert not keys(whole, "window") & keys(windowed, "window")


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"steps": 21},
        {"tau": 5},
        {"guidance": 5.0},
        {"guidance_branches": "conditional"},
        {"batch_size": 4},
        {"scheduler": "DDIMScheduler"},
        {"dtype": "bfloat16"},
    ],
    ids=str,
)
def test_whatever_decides_the_statistics_changes_their_keys(change: dict[str, Any]) -> None:
    before, after = make_plan(), make_plan(collection=change)
    for kind in ("window", "statistics", "mask"):
        assert not keys(before, kind) & keys(after, kind)


def test_a_retained_concept_is_collected_and_compared_but_not_erased() -> None:
    retain = [{"name": name, "kind": "style"} for name in ("Ada Bell", "Gil Hart")]
    plan = make_plan(pruning={"base": "plain+retained-max"}, retain=retain)
    ada, cy = plan.concepts
    assert (len(ada.mask.retained), len(cy.mask.retained)) == (1, 2)
    assert ada.target.key in cy.mask.retained
    assert ada.target.key not in ada.mask.retained
    assert len(plan.of(StatisticsUnit)) == 4


def test_previews_of_the_untouched_model_are_shared() -> None:
    plan = make_plan(outputs={"preview": {"seeds": [5], "prompts_per_concept": 3}})
    before = [unit for unit in plan.of(PreviewUnit).values() if unit.mask is None]
    after = [unit for unit in plan.of(PreviewUnit).values() if unit.mask]
    # Two concepts' own prompts and the base prompts they share; then one unit a concept.
    assert (len(before), len(after)) == (3, 2)
    assert {prompt.seed for unit in before for prompt in unit.prompts} == {5}
    assert set(after[0].prompts) <= {prompt for unit in before for prompt in unit.prompts}


COMBINED = {"fuse": "union", "preview": {"of": "combined", "batch_size": 3}}


def test_images_of_the_combined_checkpoint_alone_are_made_a_batch_a_unit() -> None:
    retain = [{"name": "Gil Hart", "kind": "style"}]
    each = make_plan(outputs={"fuse": "union", "preview": {}}, retain=retain)
    plan = make_plan(outputs=COMBINED, retain=retain)
    images = [unit for unit in plan.of(PreviewUnit).values() if unit.mask is None]
    assert [len(unit.prompts) for unit in images[:-1]] == [3] * (len(images) - 1)
    # The same images of the base model as where each concept has its own.
    asked = {prompt for unit in each.of(PreviewUnit).values() for prompt in unit.prompts}
    assert {prompt for unit in images for prompt in unit.prompts} == asked
    assert [unit.prompts for unit in plan.combined_previews] == [unit.prompts for unit in images]
    assert all(each.preview_after is None and each.previews_before for each in plan.concepts)


def test_a_late_concept_leaves_all_full_batches_of_combined_images_as_they_were() -> None:
    before = make_plan(outputs=COMBINED).of(PreviewUnit)
    after = make_plan(outputs=COMBINED, artists=(*ARTISTS, "Gil Hart")).of(PreviewUnit)
    full = {key for key, unit in before.items() if unit.mask is None and len(unit.prompts) == 3}
    assert full
    assert full <= after.keys()
