"""An attack job's units: planned, done without Ray, and gathered in the evaluation's summary."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from conceptprune.attacks.plan import AttackPlan, build_plan, judgement
from conceptprune.attacks.units import AttackUnit
from conceptprune.attacks.worker import ATTEMPTS, Attacker
from conceptprune.errors import ManifestError, UserError
from conceptprune.evaluation.summary import OBJECT
from conceptprune.evaluation.units import ImagesUnit
from conceptprune.masks.layer_mask import LayerMask
from conceptprune.masks.mask import PruningMask
from conceptprune.models.sites import SITES, site_linears
from conceptprune.models.weights import weight_digest
from conceptprune.store import Store, parquet_to_table
from conceptprune.studio import model_path
from pipelines.jobs.attack import check_attacks
from pipelines.jobs.evaluate import prepare
from tests.conceptprune.attacks.conftest import tiny

pytestmark = pytest.mark.slow

SUITE = {
    "version": 1,
    "name": "small",
    "model": {"builtin": "studio"},
    "fillers": {"style": ["cat", "car"]},
    "groups": {
        "erased": [
            {"concept": {"name": "soren abeck", "kind": "style"}},
            {"concept": {"name": "vorla brint", "kind": "style"}},
        ]
    },
    "generation": {"steps": 4, "guidance": 5.0, "dtype": "float32", "device": "cpu"},
    "scorers": [{"scorer": "studio-judge"}],
    "attacks": {
        "prompts": 1,
        "unlearn-diff": {"tokens": 1, "timesteps": 1, "iterations": 1},
        "concept-inversion": {"steps": 1, "batch_size": 1},
        "refill": {"gains": [1.0, 2.0]},
    },
}
NAMES = ("none", "unlearn-diff", "concept-inversion", "refill-random")


def write_suite(folder: Path, **attacks: object) -> Path:
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump({**SUITE, "attacks": {**SUITE["attacks"], **attacks}}))
    return path


@pytest.fixture(scope="module")
def mask_file(tmp_path_factory: pytest.TempPathFactory, studio: object) -> Path:
    """A mask of all the site's weights: nobody's style is left."""
    layers = {
        name: LayerMask(
            shape=(linear.out_features, linear.in_features),
            entries=np.arange(linear.weight.numel()),
            weight_digest=weight_digest(linear.weight),
        )
        for name, linear in site_linears(studio.denoiser, SITES["ffn_out"]).items()
    }
    mask = PruningMask(concepts=("Soren  Abeck",), component="unet", layers=layers, provenance={})
    path = tmp_path_factory.mktemp("mask") / "whole.safetensors"
    mask.save(path)
    return path


def plan_of(suite: Path, mask: Path, store: Store, names: tuple[str, ...] = NAMES) -> AttackPlan:
    prepared = prepare(suite, ["base", f"pruned=mask:{mask}"], store.uri)
    judged = judgement(prepared.suite, prepared.facts)
    return build_plan(prepared.suite, prepared.base, prepared.placed(store), names, judged)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, mask_file: Path) -> tuple[AttackPlan, Store]:
    folder = tmp_path_factory.mktemp("job")
    store = Store(str(folder / "store"))
    plan = plan_of(write_suite(folder), mask_file, store)
    prepared = prepare(write_suite(folder), ["base"], store.uri)
    attacker = Attacker(store, prepared.base)
    for unit in plan.units():
        attacker.run(unit)
    return plan, store


def test_a_checkpoint_is_attacked_by_what_it_erased_and_the_base_by_all(
    done: tuple[AttackPlan, Store],
) -> None:
    plan, _ = done
    base, pruned = plan.summary.checkpoints
    assert {concept for _, concept, _ in base.attempts} == {"soren abeck", "vorla brint"}
    assert {concept for _, concept, _ in pruned.attempts} == {"soren abeck"}
    # White-box attacks see the base's images, and only of what is attacked.
    for unit in plan.of(AttackUnit).values():
        assert bool(unit.base_images) == (unit.attack in ("unlearn-diff", "concept-inversion"))
        assert all(plan.of(ImagesUnit)[key].image_model.edit is None for key in unit.base_images)
        assert len(unit.victims) == 1


def test_every_rate_comes_with_interval_budget_and_its_attempts(
    done: tuple[AttackPlan, Store],
) -> None:
    plan, store = done
    commit = store.get(plan.summary.kind, plan.summary.key)
    summary = parquet_to_table(store.load(commit, OBJECT)).to_pylist()
    attempts = parquet_to_table(store.load(commit, ATTEMPTS)).to_pylist()
    whole = {(r["checkpoint"], r["scorer"]): r for r in summary if r["group"] == "erased"}
    assert set(whole) == {(c, f"attack/{n}") for c in ("base", "pruned") for n in NAMES}
    for (checkpoint, scorer), row in whole.items():
        mine = [
            a
            for a in attempts
            if (a["checkpoint"], f"attack/{a['attack']}") == (checkpoint, scorer)
        ]
        assert row["n"] == len(mine) == {"base": 2, "pruned": 1}[checkpoint]
        assert row["value"] == sum(a["success"] for a in mine) / len(mine)
        assert 0 <= row["low"] <= row["value"] <= row["high"] <= 1
        assert (row["metric"], row["better"]) == ("success rate", "lower")
        settings = json.loads(row["settings"])
        assert settings["spent"]["pictures"] == sum(a["pictures"] for a in mine)
        assert settings["judged"]["metric"] == "style accuracy"
    assert all(a["prompt"] and a["seed"] >= 0 for a in attempts)


def test_a_second_plan_finds_its_units_done_and_a_new_budget_only_its_own(
    done: tuple[AttackPlan, Store], tmp_path: Path, mask_file: Path
) -> None:
    plan, store = done
    same = plan_of(write_suite(tmp_path), mask_file, store)
    assert [unit.key for unit in same.units()] == [unit.key for unit in plan.units()]
    more = plan_of(write_suite(tmp_path, refill={"gains": [4.0]}), mask_file, store)
    new = [u for u in more.units() if store.find(u.kind, u.key) is None]
    assert {getattr(u, "attack", "summary") for u in new} == {"refill-random", "summary"}
    assert more.run != plan.run


def test_an_evaluation_of_the_suite_shares_the_images(done: tuple[AttackPlan, Store]) -> None:
    plan, store = done
    assert plan.of(ImagesUnit)
    for unit in plan.of(ImagesUnit).values():
        assert store.find("images", unit.key) is not None


@pytest.mark.parametrize(
    ("attacks", "message"),
    [
        ({"ring-a-bel": {}}, "ring-a-bel"),
        ({"ring-a-bell": {"population": 2}}, "population"),
        ({"unlearn-diff": {"timesteps": 0}}, "timesteps"),
        ({"refill": {"gains": []}}, "gains"),
    ],
)
def test_a_wrong_budget_is_refused_by_its_field(
    tmp_path: Path, attacks: dict[str, object], message: str
) -> None:
    with pytest.raises(ManifestError, match=message):
        prepare(write_suite(tmp_path, **attacks), ["base"], str(tmp_path / "store"))
    assert not (tmp_path / "store").exists()


def test_an_unknown_attack_a_closed_family_and_a_missing_judge_are_refused(
    tmp_path: Path,
) -> None:
    prepared = prepare(write_suite(tmp_path), ["base"], str(tmp_path / "store"))
    with pytest.raises(UserError, match="nearest: ring-a-bell"):
        check_attacks(["ring-a-bel"], prepared)
    with pytest.raises(UserError, match="--attack: name at least one"):
        check_attacks([], prepared)
    judged = write_suite(tmp_path, judged={"scorer": "studio-judge", "metric": "charm"})
    prepared = prepare(judged, ["base"], str(tmp_path / "store"))
    with pytest.raises(UserError, match="studio-judge's charm"):
        judgement(prepared.suite, prepared.facts)
    folder = tmp_path / "xl"
    tiny("sdxl").pipe.save_pretrained(folder)
    closed = prepare(write_suite(tmp_path), ["base", f"folder:{folder}"], str(tmp_path / "store"))
    with pytest.raises(UserError, match=r"and of PixArt; .* is a StableDiffusionXLPipeline"):
        check_attacks(["none", "unlearn-diff"], closed)
    check_attacks(["none", "refill-random"], closed)


def test_attacks_on_tokens_are_allowed_on_a_transformer_with_one_text_encoder(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "pixart"
    tiny("pixart-sigma").pipe.save_pretrained(folder)
    opened = prepare(write_suite(tmp_path), ["base", f"folder:{folder}"], str(tmp_path / "store"))
    check_attacks(["concept-inversion", "ring-a-bell"], opened)


def test_the_shipped_suite_of_the_benchmark_is_valid(tmp_path: Path) -> None:
    suite = Path(__file__).parents[3] / "benchmarks" / "attacks" / "suite.yaml"
    assert prepare(suite, ["base"], str(tmp_path)).base.model.folder() == model_path()
