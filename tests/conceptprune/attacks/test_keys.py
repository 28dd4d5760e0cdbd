"""Every field of a suite says which units of an evaluation and of an attack job it makes anew."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from conceptprune import digest
from conceptprune.attacks.plan import build_plan as build_attack_plan
from conceptprune.attacks.plan import judgement
from conceptprune.attacks.table import ATTACKS
from conceptprune.attacks.units import AttackUnit
from conceptprune.evaluation.checkpoint import Checkpoint, Edit, ImageModel
from conceptprune.evaluation.plan import build_plan
from conceptprune.evaluation.scorers.base import Facts
from conceptprune.evaluation.suite import Source, Suite, SuitePrompt
from conceptprune.manifest.loading import parse_document
from conceptprune.manifest.model_settings import ModelSettings
from conceptprune.store import ObjectRef
from tests.support.key_tables import Keys, changed, fields, merged

Content = dict[str, Any]

BASE: Content = {
    "version": 1,
    "name": "mine",
    "model": {"folder": "tiny"},
    "fillers": {"style": ["cat", "car"], "object": ["road", "park"]},
    "groups": {
        "erased": [
            {"concept": {"name": "Ada Bell", "kind": "style"}},
            {
                "name": "Eve Fox",
                "domain": "style",
                "prompts": [{"text": "a cat by Eve Fox", "seed": 3}, "a dog by Eve Fox"],
            },
        ],
        "retained": [{"concept": {"name": "snow", "kind": "object"}}],
        "general": [
            {"name": "photos", "prompts": ["a photo of a cat", "a photo of a dog"]},
            {"name": "lines", "file": "lines.txt"},
            {"name": "table", "csv": "table.csv"},
        ],
    },
    # Shards of two: what is erased shares none with the rest.
    "generation": {"steps": 20, "shard_prompts": 2, "dtype": "float32"},
    "scorers": [
        {"scorer": "studio-judge"},
        {"scorer": "clip-similarity", "model": {"folder": "clip"}},
        {"scorer": "perceptual", "features": {"folder": "vision"}},
        {"scorer": "fid", "features": {"folder": "vision"}},
    ],
}

SCORED = {"scores", "set-scores", "evaluation"}
IMAGES = {"images", *SCORED}
ATTACKED = {"attack", "attack-summary"}
ALL = {*IMAGES, *ATTACKED}
SUMMARIES = {"evaluation", "attack-summary"}
NONE: set[str] = set()

PHOTO = "a photo of a dog"
STYLE = {"base": "a view of a {filler}", "target": "a {filler} as {concept} has it"}
JUDGED = {"scorer": "studio-judge", "metric": "style accuracy"}

FIELDS: Mapping[str, tuple[Content, set[str]]] = {
    "name": ({"name": "yours"}, SUMMARIES),
    "fillers.style": ({"fillers": {"style": ["cat", "tree"]}}, ALL),
    "fillers.object": ({"fillers": {"object": ["road", "hill"]}}, IMAGES),
    "templates.style.base": ({"templates": {"style": STYLE}}, ALL),
    "templates.style.target": (
        {"templates": {"style": {**STYLE, "base": "a photo of a {filler}"}}},
        ALL,
    ),
    "generation.steps": ({"generation": {"steps": 21}}, ALL),
    "generation.guidance": ({"generation": {"guidance": 3.0}}, ALL),
    "generation.scheduler": ({"generation": {"scheduler": "DDIMScheduler"}}, ALL),
    "generation.resolution": ({"generation": {"resolution": 64}}, ALL),
    "generation.seeds": ({"generation": {"seeds": [1]}}, ALL),
    "generation.seed_of": ({"generation": {"seed_of": "suite"}}, ALL),
    "generation.batch_size": ({"generation": {"batch_size": 4}}, ALL),
    "generation.shard_prompts": ({"generation": {"shard_prompts": 3}}, ALL),
    "generation.dtype": ({"generation": {"dtype": "float16"}}, ALL),
    "generation.device": ({"generation": {"device": "cpu"}}, NONE),
    "groupings": ({"groupings": ["unlearncanvas"]}, {"evaluation"}),
    "intervals.resamples": ({"intervals": {"resamples": 500}}, {"evaluation"}),
    "intervals.seed": ({"intervals": {"seed": 1}}, {"evaluation"}),
    "attacks.prompts": ({"attacks": {"prompts": 1}}, ATTACKED),
    "attacks.start": ({"attacks": {"start": "plain"}}, ATTACKED),
    # The first metric that falls where a style is gone is what is taken without being asked.
    "attacks.judged.scorer": (
        {"attacks": {"judged": {"scorer": "clip-similarity", "metric": "similarity"}}},
        ATTACKED,
    ),
    "attacks.judged.metric": (
        {"attacks": {"judged": {**JUDGED, "metric": "object accuracy"}}},
        ATTACKED,
    ),
    "attacks.judged.at_least": ({"attacks": {"judged": {**JUDGED, "at_least": 0.7}}}, ATTACKED),
    "compute.actors": ({"compute": {"actors": 7}}, NONE),
    "compute.cpus_per_actor": ({"compute": {"cpus_per_actor": 2.0}}, NONE),
    "compute.gpus_per_actor": ({"compute": {"gpus_per_actor": 1.0}}, NONE),
    "compute.threads_per_actor": ({"compute": {"threads_per_actor": 2}}, NONE),
    "compute.max_attempts": ({"compute": {"max_attempts": 9}}, NONE),
    "compute.offload": ({"compute": {"offload": "none"}}, NONE),
    "compute.claim_seconds": ({"compute": {"claim_seconds": 60.0}}, NONE),
}
"""What is changed, and the kinds of units that become others, by the field it is about."""

BUDGETS: Mapping[str, tuple[Content, str]] = {
    "ring_a_bell.coefficient": ({"ring-a-bell": {"coefficient": 2.0}}, "ring-a-bell"),
    "ring_a_bell.length": ({"ring-a-bell": {"length": 8}}, "ring-a-bell"),
    "ring_a_bell.population": ({"ring-a-bell": {"population": 8}}, "ring-a-bell"),
    "ring_a_bell.generations": ({"ring-a-bell": {"generations": 8}}, "ring-a-bell"),
    "ring_a_bell.crossover": ({"ring-a-bell": {"crossover": 0.1}}, "ring-a-bell"),
    "ring_a_bell.mutation": ({"ring-a-bell": {"mutation": 0.1}}, "ring-a-bell"),
    "ring_a_bell.seed": ({"ring-a-bell": {"seed": 1}}, "ring-a-bell"),
    "unlearn_diff.tokens": ({"unlearn-diff": {"tokens": 1}}, "unlearn-diff"),
    "unlearn_diff.timesteps": ({"unlearn-diff": {"timesteps": 1}}, "unlearn-diff"),
    "unlearn_diff.iterations": ({"unlearn-diff": {"iterations": 1}}, "unlearn-diff"),
    "unlearn_diff.learning_rate": ({"unlearn-diff": {"learning_rate": 0.1}}, "unlearn-diff"),
    "unlearn_diff.weight_decay": ({"unlearn-diff": {"weight_decay": 0.0}}, "unlearn-diff"),
    "unlearn_diff.seed": ({"unlearn-diff": {"seed": 1}}, "unlearn-diff"),
    "random_tokens.tokens": ({"random-tokens": {"tokens": 1}}, "random-tokens"),
    "random_tokens.guesses": ({"random-tokens": {"guesses": 1}}, "random-tokens"),
    "random_tokens.seed": ({"random-tokens": {"seed": 1}}, "random-tokens"),
    "concept_inversion.steps": ({"concept-inversion": {"steps": 1}}, "concept-inversion"),
    "concept_inversion.batch_size": ({"concept-inversion": {"batch_size": 1}}, "concept-inversion"),
    "concept_inversion.learning_rate": (
        {"concept-inversion": {"learning_rate": 0.1}},
        "concept-inversion",
    ),
    "concept_inversion.vectors": ({"concept-inversion": {"vectors": 2}}, "concept-inversion"),
    "concept_inversion.start": ({"concept-inversion": {"start": "paint"}}, "concept-inversion"),
    "concept_inversion.seed": ({"concept-inversion": {"seed": 1}}, "concept-inversion"),
    "refill.sites": ({"refill": {"sites": ["ffn_in"]}}, "refill"),
    "refill.rank": ({"refill": {"rank": 1}}, "refill"),
    "refill.rounds": ({"refill": {"rounds": 1}}, "refill"),
    "refill.gains": ({"refill": {"gains": [2.0]}}, "refill"),
    "refill.suspects": ({"refill": {"suspects": 0.1}}, "refill"),
    "refill.seed": ({"refill": {"seed": 1}}, "refill"),
}
"""A change of an attack's own settings, and the attack; of "refill", all fills."""

LINES = hashlib.sha256(b"a boat\na house\n").hexdigest()

SOURCE: Mapping[str, tuple[str, int, Content, set[str]]] = {
    "concept": ("erased", 0, {"concept": {"name": "Ada Bells", "kind": "style"}}, ALL),
    "prompts": ("general", 0, {"prompts": ["a photo of a cat", "a photo of a cow"]}, IMAGES),
    "prompts.text": ("erased", 1, {"prompts": ["a hat by Eve Fox", "a bag by Eve Fox"]}, ALL),
    "prompts.seed": (
        "general",
        0,
        {"prompts": [{"text": "a photo of a cat", "seed": 9}, PHOTO]},
        IMAGES,
    ),
    "prompts.guidance": (
        "general",
        0,
        {"prompts": [{"text": "a photo of a cat", "guidance": 2.0}, PHOTO]},
        IMAGES,
    ),
    # What an image should show is not asked of sets.
    "prompts.labels": (
        "general",
        0,
        {
            "prompts": [
                {"text": "a photo of a cat", "labels": {"object": "cat"}},
                "a photo of a dog",
            ]
        },
        {"scores", "evaluation"},
    ),
    "file": ("general", 1, {"file": "other.txt"}, IMAGES),
    "csv": ("general", 2, {"csv": "other.csv"}, IMAGES),
    "sha256": ("general", 1, {"sha256": LINES}, NONE),
    "name": ("general", 0, {"name": "images"}, {"evaluation"}),
    "name of what is erased": (
        "erased",
        1,
        {"name": "Eve Foxx"},
        {"scores", "evaluation", *ATTACKED},
    ),
    "domain": ("general", 0, {"domain": "object"}, {"scores", "evaluation"}),
    "limit": ("general", 1, {"limit": 1}, IMAGES),
}
"""Changes of the source with that place in its group."""

ELSEWHERE = {
    "version": "there is only one",
    "model": "by its files' digest: test_another_model_makes_all_anew",
    "groups.erased": "SOURCE",
    "groups.retained": "SOURCE",
    "groups.general": "SOURCE",
    "scorers": "test_what_a_scorer_says_hangs_on_its_settings_and_weights_and_not_on_its_name",
    "fillers.nudity": "as fillers.style",
    "templates.nudity": "as templates.style",
    "templates.object": "as templates.style",
    "templates.bias": "as templates.style",
}
"""Fields that have no row above, and where they are instead."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the suite lies, with the files that it names."""
    folder = tmp_path_factory.mktemp("suite")
    (folder / "lines.txt").write_text("a boat\na house\n")
    (folder / "other.txt").write_text("a boat\na tower\n")
    (folder / "table.csv").write_text("prompt\na river\na field\n")
    (folder / "other.csv").write_text("prompt\na river\na beach\n")
    return folder


def plan_keys(
    folder: Path,
    content: Content,
    *,
    identity: str = "f" * 64,
    images: str = "e" * 64,
    edit: str = "d" * 64,
    weights: str = "c" * 64,
    label: str = "pruned",
) -> dict[str, set[str]]:
    """Keys of all units of a suite's evaluation and of all attacks, by kind; attacks by name too.

    What is evaluated and attacked is the base and one mask.
    """
    suite = parse_document(yaml.safe_dump(content), Suite, source="s.yaml", folder=folder)
    model = ModelSettings(
        source=suite.model,
        identity=identity,
        pipeline="StableDiffusionPipeline",
        dtype=suite.dtype,
        device=suite.generation.device,
        scheduler=suite.generation.scheduler,
        resolution=suite.generation.resolution,
    )
    base = ImageModel(model=model, identity=images)
    ref = ObjectRef(path=f"objects/mask/model=m/{edit}.safetensors", digest=edit, size=1)
    masked = ImageModel(model=model, identity=images, edit=Edit(kind="mask", ref=ref))
    checkpoints = [
        Checkpoint(label="base", kind="base", digest="", erased=(), image_model=base),
        Checkpoint(label=label, kind="mask", digest=edit, erased=(), image_model=masked),
    ]
    facts = [Facts(versions={"torch": "2.13.0"}, weights=weights) for _ in suite.scorers]
    judged = judgement(suite, facts)
    plans = (
        build_plan(suite, base, checkpoints, facts),
        build_attack_plan(suite, base, checkpoints, tuple(ATTACKS), judged),
    )
    found: dict[str, set[str]] = {}
    for unit in (unit for plan in plans for unit in plan.units()):
        found.setdefault(unit.kind, set()).add(unit.key)
        if isinstance(unit, AttackUnit):
            found.setdefault(f"attack/{unit.attack}", set()).add(unit.key)
    return found


@pytest.fixture(scope="module")
def base(folder: Path) -> dict[str, set[str]]:
    return plan_keys(folder, BASE)


def kinds(keys: Keys) -> dict[str, set[str]]:
    """Without the attacks by name."""
    return {kind: found for kind, found in keys.items() if "/" not in kind}


def test_the_suite_that_all_is_compared_with_has_every_kind_and_attack(base: Keys) -> None:
    assert {*kinds(base)} == ALL
    assert {*base} - ALL == {f"attack/{name}" for name in ATTACKS}


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_changes_the_keys_of_what_it_decides_and_no_others(
    field: str, base: Keys, folder: Path
) -> None:
    change, expected = FIELDS[field]
    assert changed(kinds(base), kinds(plan_keys(folder, merged(BASE, change)))) == expected


@pytest.mark.parametrize("field", BUDGETS)
def test_the_budget_of_an_attack_changes_its_own_units_and_the_summary(
    field: str, base: Keys, folder: Path
) -> None:
    change, attack = BUDGETS[field]
    own = [name for name in ATTACKS if name == attack or name.startswith(f"{attack}-")]
    other = plan_keys(folder, {**BASE, "attacks": change})
    assert changed(base, other) == {*(f"attack/{name}" for name in own), *ATTACKED}


@pytest.mark.parametrize("field", SOURCE)
def test_a_source_changes_what_is_made_of_its_prompts(field: str, base: Keys, folder: Path) -> None:
    group, index, change, expected = SOURCE[field]
    sources = [dict(source) for source in BASE["groups"][group]]
    sources[index] = merged(sources[index], change)
    content = merged(BASE, {"groups": {group: sources}})
    assert changed(kinds(base), kinds(plan_keys(folder, content))) == expected


@pytest.mark.parametrize(
    ("index", "change", "expected"),
    [
        (1, {"text": "a cat"}, {"scores", "evaluation"}),
        (2, {"batch_size": 4}, {"scores", "evaluation"}),
        (3, {"seed": 1}, {"set-scores", "evaluation"}),
        (1, {"name": "likeness"}, {"evaluation"}),
        (1, {"model": {"folder": "elsewhere/clip"}}, NONE),
    ],
)
def test_what_a_scorer_says_hangs_on_its_settings_and_weights_and_not_on_its_name(
    index: int, change: Content, expected: set[str], base: Keys, folder: Path
) -> None:
    scorers = [dict(scorer) for scorer in BASE["scorers"]]
    scorers[index] = merged(scorers[index], change)
    assert changed(kinds(base), kinds(plan_keys(folder, {**BASE, "scorers": scorers}))) == expected
    # Of all scorers, and so of the one that judges attacks.
    other = plan_keys(folder, BASE, weights="b" * 64)
    assert changed(kinds(base), kinds(other)) == {*SCORED, *ATTACKED}


def test_another_model_makes_all_anew(base: Keys, folder: Path) -> None:
    assert changed(kinds(base), kinds(plan_keys(folder, BASE, identity="0" * 64))) == ALL
    # Its VAE, which no other job looks at, is part of what images are.
    assert changed(kinds(base), kinds(plan_keys(folder, BASE, images="0" * 64))) == ALL
    elsewhere = plan_keys(folder, {**BASE, "model": {"folder": "elsewhere/tiny"}})
    assert changed(base, elsewhere) == NONE


def test_another_edit_makes_all_anew_but_the_bases_images_and_a_label_only_summaries(
    base: Keys, folder: Path
) -> None:
    other = plan_keys(folder, BASE, edit="0" * 64)
    assert changed(kinds(base), kinds(other)) == ALL
    assert len(base["images"] & other["images"]) == len(base["images"]) // 2
    assert changed(base, plan_keys(folder, BASE, label="mine")) == SUMMARIES


def test_the_methods_version_is_in_every_key(
    base: Keys, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digest, "METHOD_VERSION", digest.METHOD_VERSION + 1)
    newer = plan_keys(folder, BASE)
    assert {kind for kind in base if base[kind] & newer[kind]} == NONE


def test_every_field_of_a_suite_has_its_row() -> None:
    budgets = {f"attacks.{field}" for field in BUDGETS}
    # Of `none`, which has no settings, there is no field below.
    assert {*fields(Suite, ELSEWHERE)} == {*FIELDS, *budgets, *ELSEWHERE}
    assert {*Source.model_fields} == {name for name in SOURCE if name in Source.model_fields}
    prompts = {f"prompts.{name}" for name in SuitePrompt.model_fields}
    assert prompts <= {*SOURCE}


GOLDEN = {
    "images": "90706f1902cbaa18062bb938be453094a952c2db17921946becdcf8c98277a2e",
    "scores": "4f314d6f6b7b06606131b14b424558f02471f4507a2dbf2ed29818a64770fa80",
    "set-scores": "dba979e65d95311dc19c1d11a9513d74cf71b258fd5704445e2c021c954dff3b",
    "evaluation": "fce5e35b5fbee2873b99798098e125c99afde706f13e780e5bfdf81e0f9f716f",
    "attack": "b0b4a04cca4370239df74965a8f8c32ff7ac3f6687cf162a0648b9aa57149527",
    "attack-summary": "1d771f3acb82f552c4f25b3522663b5c56101fac5f19e7a337a271110730f4b0",
}
"""SHA-256 of all keys of a kind, sorted, one a line."""


def test_the_keys_of_a_small_suite_are_these(base: Keys) -> None:
    lines = {kind: "\n".join(sorted(found)) for kind, found in kinds(base).items()}
    assert {
        kind: hashlib.sha256(text.encode()).hexdigest() for kind, text in lines.items()
    } == GOLDEN
