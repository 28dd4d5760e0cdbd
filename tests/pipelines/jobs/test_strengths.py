"""What `tune` chooses from, and the jobs that it runs."""

from pathlib import Path
from typing import Any

import pytest

from conceptprune.errors import UserError
from pipelines.jobs.preparation import Prepared, plan_here, prepare
from pipelines.jobs.strengths import (
    FACTORS,
    SPARSITIES,
    check_shares,
    read_strengths,
    subjects_of,
    with_strengths,
)
from tests.pipelines.conftest import CONCEPTS, REWORDING, write_manifest


def prepared(folder: Path, model: Path, **changes: Any) -> Prepared:
    return prepare(write_manifest(folder / "m.yaml", model, **changes))


def test_the_strength_that_changes_the_least_comes_first() -> None:
    assert read_strengths(None, reworded=False) == SPARSITIES == tuple(sorted(SPARSITIES))
    assert read_strengths(None, reworded=True) == FACTORS == tuple(sorted(FACTORS, reverse=True))
    assert read_strengths("0.5,0.01, 1e-3,0.5", reworded=False) == (0.001, 0.01, 0.5)
    assert read_strengths("0.5,3", reworded=True) == (3.0, 0.5)


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "nan", "inf", "2"])
def test_what_is_no_strength_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--values"):
        read_strengths(text, reworded=False)


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_what_is_no_share_is_refused(share: float) -> None:
    with pytest.raises(UserError, match="--gone"):
        check_shares(share, 1)
    with pytest.raises(UserError, match="--hold"):
        check_shares(0, share)


def test_strengths_that_select_nothing_of_the_narrowest_layer_are_left_out(
    tiny_folder: Path, tmp_path: Path
) -> None:
    at_least_one = {"name": "Ada Bell", "kind": "style", "pruning": {"min_per_row": 1}}
    both = [at_least_one, {"name": "Cy Dow", "kind": "style"}]
    job = prepared(tmp_path, tiny_folder, concepts=both)
    subjects, left_out = subjects_of(job, (1e-9, 0.5), "m.yaml")
    assert left_out == (1e-9,)
    assert [subject.strengths for subject in subjects] == [(1e-9, 0.5), (0.5,)]


def test_a_step_makes_the_masks_of_its_concepts_and_nothing_else(
    tiny_folder: Path, tmp_path: Path
) -> None:
    job = prepared(tmp_path, tiny_folder)
    first, _, third = subjects_of(job, (0.02, 0.04, 0.08), "m.yaml")[0]
    plan = plan_here(with_strengths(job, {first: 0.04, third: 0.02}))
    assert [each.concept.name for each in plan.concepts] == [CONCEPTS[0], CONCEPTS[2]]
    assert [each.mask.pruning.sparsity for each in plan.concepts] == [0.04, 0.02]
    kinds = {unit.kind for unit in plan.units()}
    assert kinds == {"window", "statistics", "mask"}
    whole = {unit.key for unit in plan_here(job).units()}
    # Also in a job by the manifest itself, which has that strength for the last one.
    assert {unit.key for unit in plan.units()} - whole == {plan.concepts[0].mask.key}


def test_a_rewordings_strengths_are_multiplied_and_the_masks_stay(
    tiny_folder: Path, tmp_path: Path
) -> None:
    job = prepared(tmp_path, tiny_folder, **REWORDING, reword={"retain": 0.3, "ridge": 0.5})
    (subject,), _ = subjects_of(job, FACTORS, "m.yaml")
    assert subject.names == CONCEPTS
    changed = with_strengths(job, {subject: 0.25}).manifest.rewording
    assert changed
    assert (changed.retain, changed.base, changed.empty, changed.vocabulary) == (
        *(0.075, 1.5, 0.375),
        0.25,
    )
    assert (changed.ridge, changed.words) == (0.5, 1000)
    before, after = (plan_here(each) for each in (job, with_strengths(job, {subject: 0.25})))
    assert [each.mask.key for each in after.concepts] == [each.mask.key for each in before.concepts]
    assert plan_here(with_strengths(job, {subject: 1.0})).combined == before.combined


def test_a_selector_without_a_sparsity_cannot_be_tuned(tiny_folder: Path, tmp_path: Path) -> None:
    job = prepared(tmp_path, tiny_folder, pruning={"selector": "fia"})
    with pytest.raises(UserError, match=r"m\.yaml: concepts\[0\]: tune chooses pruning\.sparsity"):
        subjects_of(job, SPARSITIES, "m.yaml")
