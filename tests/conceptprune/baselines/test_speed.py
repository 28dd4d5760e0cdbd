"""SPEED's edit is the best one among those that leave alone what they must."""

import itertools

import pytest
import torch
from torch import Tensor

from conceptprune.baselines.speed import (
    MANY,
    SpeedSettings,
    free_directions,
    invariants,
    last_tokens,
    refined,
    speed_weights,
)
from conceptprune.baselines.uce import Edit, Encoded
from conceptprune.errors import UserError
from tests.conceptprune.baselines.random_texts import Texts

WIDTH, TOKENS, ROWS = 16, 7, 5
PLAIN = SpeedSettings(augment=0, threshold=1e-9, retain_scale=0.3)
"""Retained tokens as they are, so that the problem can be written down."""


class WideTexts(Texts):
    """With room for directions that are free."""

    def text(self, last: int = 2) -> Encoded:
        return Encoded(states=self.normal(TOKENS, WIDTH), last=last)

    def weight(self, rows: int = ROWS) -> Tensor:
        return self.normal(rows, WIDTH)


def change(weight: Tensor, *given: object) -> Tensor:
    return speed_weights({"w": weight}, *given)["w"] - weight  # type: ignore[arg-type]


def objective(moved: Tensor, old: Tensor, edits: list[Edit], retain_scale: float) -> Tensor:
    """Written out concept by concept, as in the paper."""
    total = retain_scale * (moved**2).sum()
    for edit in edits:
        erased, guide = edit.erased.states[edit.erased.last], edit.guide.states[edit.guide.last]
        total = total + (((old + moved) @ erased - old @ guide) ** 2).sum() / len(edits)
    return total


def test_no_edit_that_leaves_the_retained_and_the_empty_prompt_alone_is_better() -> None:
    texts = WideTexts(seed=0)
    edits, kept = [texts.edit(), texts.edit()], [texts.text() for _ in range(3)]
    old, empty = texts.weight(), texts.text()
    found = change(old, edits, kept, empty, PLAIN).requires_grad_()

    fixed = torch.cat([last_tokens(kept), invariants(empty)])
    assert (found @ fixed.T).abs().max() < 1e-9
    (gradient,) = torch.autograd.grad(objective(found, old, edits, PLAIN.retain_scale), found)
    # What is left of the gradient in the directions that an edit may take.
    allowed = gradient - gradient @ torch.linalg.pinv(fixed) @ fixed
    assert allowed.abs().max() < 1e-9
    assert found.norm() > 0.1


def test_the_cheaper_a_change_the_more_an_erased_concept_says_what_its_guide_says() -> None:
    texts = WideTexts(seed=1)
    edit, kept, old, empty = texts.edit(), [texts.text()], texts.weight(), texts.text()
    erased, guide = last_tokens([edit.erased])[0], last_tokens([edit.guide])[0]
    distances = []
    for scale in (100.0, 1.0, 1e-2, 1e-6):
        settings = SpeedSettings(augment=0, threshold=1e-9, retain_scale=scale)
        moved = change(old, [edit], kept, empty, settings)
        distances.append(float(((old + moved) @ erased - old @ guide).norm()))
    assert all(before > after for before, after in itertools.pairwise(distances))
    assert distances[-1] < 1e-4 * distances[0]


def test_invariants_may_change_when_their_constraint_is_loose() -> None:
    texts = WideTexts(seed=2)
    edit, kept, old, empty = texts.edit(), [texts.text()], texts.weight(), texts.text()
    moves = [
        float((change(old, [edit], kept, empty, settings) @ invariants(empty).T).norm())
        for settings in (
            SpeedSettings(lamb=0.0),
            SpeedSettings(lamb=1.0),
            SpeedSettings(lamb=100.0),
        )
    ]
    assert moves[0] < 1e-9
    assert moves == sorted(moves)
    assert moves[-1] > 1e-3


def test_invariants_that_are_retained_already_are_no_obstacle() -> None:
    texts = WideTexts(seed=3)
    empty = texts.text()
    kept = [Encoded(states=empty.states, last=place) for place in range(TOKENS)]
    old = texts.weight()
    found = change(old, [texts.edit()], kept, empty, PLAIN)
    assert found.isfinite().all()
    assert (found @ empty.states.T).abs().max() < 1e-9
    assert found.norm() > 0.1


def test_the_invariants_are_the_first_token_and_centres_of_alike_ones() -> None:
    texts = WideTexts(seed=4)
    centres = 10 * texts.normal(3, WIDTH)
    first = texts.normal(1, WIDTH)
    near = centres[[0, 0, 1, 1, 2, 2]] + 0.01 * texts.normal(6, WIDTH)
    found = invariants(Encoded(states=torch.cat([first, near]), last=0))
    assert torch.equal(found[:1], first)
    assert torch.allclose(found[1:], near.view(3, 2, WIDTH).mean(dim=1))


def test_directions_with_less_than_the_threshold_are_free() -> None:
    kept = torch.diag(torch.tensor([2.0, 1.0, 0.1, 0.0], dtype=torch.float64))
    free = free_directions(kept, threshold=0.1)
    onto = torch.diag(torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64))
    assert torch.allclose(free @ free.T, onto)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_the_filter_keeps_what_the_edit_would_change_by_more_than_the_mean() -> None:
    texts = WideTexts(seed=5)
    kept, weight, edit = texts.normal(9, WIDTH), texts.weight(), texts.normal(ROWS, WIDTH)
    norms = (kept @ edit.T).norm(dim=1)
    found = refined(kept, weight, edit, SpeedSettings(augment=1), generator())
    most = kept[norms > norms.mean()]
    assert 0 < len(most) < len(kept)
    assert torch.equal(found[: len(most)], most)
    # Only copies follow.
    unfiltered = refined(kept, weight, edit, SpeedSettings(augment=1, filtered=False), generator())
    assert torch.equal(unfiltered[: len(kept)], kept)


def test_copies_differ_only_where_the_layer_says_least_and_the_edit_changes_them_most() -> None:
    texts = WideTexts(seed=6)
    kept, weight, edit = texts.normal(4, WIDTH), texts.weight(), texts.normal(ROWS, WIDTH)
    settings = SpeedSettings(augment=50, filtered=False)
    copies = refined(kept, weight, edit, settings, generator())[len(kept) :]
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    assert torch.allclose(left @ values.diag() @ right, weight)
    beside = torch.eye(WIDTH).double() - right[-1:].T @ right[-1:]
    apart = copies[:, None] - kept[None]
    assert (apart @ beside).norm(dim=-1).min(dim=1).values.max() < 1e-9
    assert apart.norm(dim=-1).min() > 1e-6
    norms = (copies @ edit.T).norm(dim=1)
    assert 0 < len(copies) < 50 * len(kept)
    # The mean of those chosen is above that of all, of which none chosen may be below.
    everything = refined(kept, weight, torch.zeros(1, WIDTH).double(), settings, generator())
    assert norms.min() > (everything[len(kept) :] @ edit.T).norm(dim=1).mean()


def test_the_same_seed_gives_the_same_bits_and_another_one_others() -> None:
    texts = WideTexts(seed=7)
    given = ([texts.edit()], [texts.text() for _ in range(3)], texts.text())
    old = texts.weight(WIDTH + 3)
    settings = [SpeedSettings(seed=seed, threshold=0.5) for seed in (0, 0, 1)]
    one, same, other = (change(old, *given, each) for each in settings)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("settings", [SpeedSettings(), MANY])
def test_nothing_to_move_changes_no_bit(settings: SpeedSettings) -> None:
    texts = WideTexts(seed=8)
    same, kept = texts.text(), [texts.text()]
    old = {"v": texts.weight().half()}
    new = speed_weights(old, [Edit(erased=same, guide=same)], kept, texts.text(), settings)
    assert torch.equal(new["v"], old["v"])
    assert new["v"].dtype == torch.float16


def test_without_retained_concepts_the_empty_prompts_tokens_stay() -> None:
    texts = WideTexts(seed=9)
    old, empty = texts.weight(), texts.text()
    found = change(old, [texts.edit()], [], empty, PLAIN)
    assert (found @ empty.states.T).abs().max() < 1e-9
    assert found.norm() > 0.1


@pytest.mark.parametrize(
    "wrong",
    [
        {"augment": -1},
        {"threshold": 0.0},
        {"retain_scale": 0.0},
        {"retain_scale": float("nan")},
        {"lamb": -1.0},
    ],
)
def test_a_setting_without_a_solution_is_refused_by_its_option(wrong: dict[str, float]) -> None:
    (name,) = wrong
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')}"):
        SpeedSettings(**wrong)  # type: ignore[arg-type]


def test_a_projection_of_another_width_is_refused() -> None:
    texts = WideTexts(seed=10)
    with pytest.raises(UserError, match="does not see the prompt"):
        change(texts.normal(ROWS, WIDTH + 1), [texts.edit()], [], texts.text(), PLAIN)


def test_nothing_to_edit_is_refused() -> None:
    texts = WideTexts(seed=11)
    with pytest.raises(ValueError, match="no concept"):
        change(texts.weight(), [], [texts.text()], texts.text(), PLAIN)
