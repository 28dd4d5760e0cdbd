"""What an evaluation's units depend on, and what they do not."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from conceptprune.errors import ModelMismatchError, UserError
from conceptprune.evaluation.plan import EvaluationPlan, build_plan
from conceptprune.evaluation.units import ImagesUnit, ScoresUnit
from conceptprune.evaluation.worker import Evaluator
from conceptprune.store import Store
from pipelines.jobs.evaluate import prepare
from tests.support.networks import save_clip, save_vision

PROMPTS = ["a photo of a cat", "a photo of a dog", "a photo of a car", "a photo of a tree"]


def plan(
    tmp_path: Path,
    *,
    prompts: Sequence[str] = PROMPTS,
    of: Sequence[str] = ("base",),
    **sections: Any,
) -> EvaluationPlan:
    content = {
        "version": 1,
        "name": "mine",
        "model": {"builtin": "studio"},
        "groups": {"general": [{"name": "photos", "prompts": list(prompts)}]},
        "generation": {"steps": 1, "shard_prompts": 2, "batch_size": 2, "dtype": "float32"},
        "scorers": [{"scorer": "studio-judge"}],
        **sections,
    }
    path = tmp_path / "suite.yaml"
    # Through JSON, for values that occur twice would become aliases, which are refused.
    path.write_text(yaml.safe_dump(json.loads(json.dumps(content))))
    store = str(tmp_path / "store")
    return prepare(path, of, store).plan(Store(store))


def test_another_label_changes_the_summary_only(tmp_path: Path) -> None:
    one, other = plan(tmp_path), plan(tmp_path, of=["untouched=base"])
    assert one.of(ImagesUnit).keys() == other.of(ImagesUnit).keys()
    assert one.of(ScoresUnit).keys() == other.of(ScoresUnit).keys()
    assert one.evaluation.key != other.evaluation.key
    assert one.run != other.run


def test_prompts_that_are_added_leave_the_shards_before_them_as_they_are(tmp_path: Path) -> None:
    one, more = plan(tmp_path), plan(tmp_path, prompts=[*PROMPTS, "a photo of a boat"])
    assert one.of(ImagesUnit).keys() < more.of(ImagesUnit).keys()
    assert one.of(ScoresUnit).keys() < more.of(ScoresUnit).keys()


@pytest.mark.parametrize(
    "generation", [{"steps": 2}, {"guidance": 3.0}, {"batch_size": 1}, {"seeds": [1]}]
)
def test_every_setting_of_generation_changes_every_image(
    tmp_path: Path, generation: dict[str, Any]
) -> None:
    settings = {"steps": 1, "shard_prompts": 2, "batch_size": 2, "dtype": "float32", **generation}
    other = plan(tmp_path, generation=settings)
    assert plan(tmp_path).of(ImagesUnit).keys().isdisjoint(other.of(ImagesUnit).keys())


def test_scores_follow_the_weights_and_not_where_they_lie_or_what_the_scorer_is_called(
    tmp_path: Path,
) -> None:
    keys = []
    for folder in ("here", "there", "else"):
        network = save_clip(tmp_path / folder)
        if folder == "else":
            (network / "preprocessor_config.json").write_text("{}")
        scorer = {
            "scorer": "clip-similarity",
            "model": {"folder": str(network)},
            "name": folder,
        }
        keys.append(plan(tmp_path, scorers=[scorer]).of(ScoresUnit).keys())
    assert keys[0] == keys[1]
    assert keys[0].isdisjoint(keys[2])


def test_what_is_compared_with_the_base_needs_its_images_even_where_it_is_not_evaluated(
    tmp_path: Path, tiny_folder: Path
) -> None:
    scorer = {"scorer": "perceptual", "features": {"folder": str(save_vision(tmp_path / "net"))}}
    found = plan(tmp_path, scorers=[scorer], of=[f"folder:{tiny_folder}"])
    assert len(found.of(ImagesUnit)) == 4
    needed = {key for unit in found.of(ScoresUnit).values() for _, key in unit.needs}
    assert needed == found.of(ImagesUnit).keys()
    assert set(found.labels.values()) == {("tiny",)}


def test_a_checkpoint_may_be_asked_for_its_own_concepts_and_what_must_stay_alone(
    tmp_path: Path,
) -> None:
    def of(name: str) -> dict[str, Any]:
        return {"concept": {"name": name, "kind": "style"}}

    names = ("Ada", "Bo", "Cy")
    perceptual = {"scorer": "perceptual", "features": {"folder": str(save_vision(tmp_path / "n"))}}
    asked = {
        "groups": {"erased": [of(name) for name in names], "retained": [of("Dee")]},
        "fillers": {"style": ["cat", "dog"]},
        "scorers": [{"scorer": "studio-judge"}, perceptual],
    }
    plan(tmp_path, **asked)
    found = prepare(tmp_path / "suite.yaml", ["base"], str(tmp_path / "store"))
    (base,) = found.placed(Store(str(tmp_path / "store")))
    masks = [replace(base, label=name, erased=(name,)) for name in (*names, "elsewhere")]
    own = build_plan(found.suite, found.base, masks, found.facts, own=True)
    for entry in own.evaluation.entries:
        units = [own.by_key[key] for key in entry.images]
        texts = {prompt.text for unit in units for prompt in cast(ImagesUnit, unit).prompts}
        name = entry.checkpoint.label
        # What claims none of the suite's concepts is judged on all, as ever.
        expected = {name, "Dee"} if name in names else {*names, "Dee"}
        assert {text.rpartition("style of ")[2] for text in texts} == expected
        assert [len(one.scores) for one in entry.scored] == [len(entry.images)] * 2
    whole = build_plan(found.suite, found.base, masks, found.facts)
    assert {len(entry.images) for entry in whole.evaluation.entries} == {4}


def test_one_image_is_no_set(tmp_path: Path) -> None:
    network = {"folder": str(save_vision(tmp_path / "net"))}
    with pytest.raises(UserError, match="general has one only"):
        plan(tmp_path, prompts=PROMPTS[:1], scorers=[{"scorer": "fid", "features": network}])


def test_a_machine_with_other_weights_than_the_plan_refuses_to_score(tmp_path: Path) -> None:
    network = save_clip(tmp_path / "net")
    scorer = {"scorer": "clip-similarity", "model": {"folder": str(network)}}
    found = plan(tmp_path, scorers=[scorer])
    (network / "preprocessor_config.json").write_text("{}")
    unit = next(iter(found.of(ScoresUnit).values()))
    image_model = next(iter(found.of(ImagesUnit).values())).image_model
    evaluator = Evaluator(Store(str(tmp_path / "store")), image_model)
    with pytest.raises(UserError, match="place the same on all"):
        evaluator.scorer(unit.scorer, unit.facts)


def test_a_machine_with_another_model_than_the_plan_refuses_to_generate(tmp_path: Path) -> None:
    image_model = next(iter(plan(tmp_path).of(ImagesUnit).values())).image_model
    evaluator = Evaluator(Store(str(tmp_path / "store")), image_model)
    with pytest.raises(ModelMismatchError, match="this job was planned with 000000000000"):
        evaluator.model(replace(image_model, identity="0" * 64))
