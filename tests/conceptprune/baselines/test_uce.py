"""UCE's map is the solution of the problem the paper states, and does no more than it says."""

import itertools

import pytest
import torch
from torch import Tensor

from conceptprune.baselines.uce import (
    Edit,
    Encoded,
    Tokens,
    UceSettings,
    edit_tokens,
    uce_map,
)
from conceptprune.edits.projections import edited
from conceptprune.errors import UserError
from tests.conceptprune.baselines.random_texts import TOKENS, WIDTH, Texts

ROWS = 4


def objective(
    weight: Tensor, old: Tensor, edits: list[Edit], kept: list[Encoded], settings: UceSettings
) -> Tensor:
    """Written out token by token, as in the paper."""
    total = settings.lamb * ((weight - old) ** 2).sum()
    for edit in edits:
        for erased, guide in zip(*edit_tokens(edit, settings.tokens), strict=True):
            total = total + settings.erase_scale * ((weight @ erased - old @ guide) ** 2).sum()
    for text in kept:
        chosen = [text.last] if settings.tokens == "last" else range(TOKENS)
        for state in text.states[list(chosen)]:
            total = total + settings.preserve_scale * ((weight @ state - old @ state) ** 2).sum()
    return total


@pytest.mark.parametrize("tokens", ["last", "rest", "all"])
@pytest.mark.parametrize("num_kept", [0, 2])
def test_the_edit_solves_the_published_least_squares(tokens: Tokens, num_kept: int) -> None:
    texts = Texts(seed=num_kept)
    edits, kept = [texts.edit(), texts.edit()], [texts.text() for _ in range(num_kept)]
    (old,) = texts.projections(ROWS)
    settings = UceSettings(erase_scale=0.7, preserve_scale=0.3, lamb=0.2, tokens=tokens)
    solution = edited({"w": old}, uce_map(edits, kept, settings))["w"].requires_grad_()

    loss = objective(solution, old, edits, kept, settings)
    (gradient,) = torch.autograd.grad(loss, solution)
    # The problem is strictly convex: where the gradient vanishes is the solution, and no other.
    assert gradient.abs().max() < 1e-10
    assert loss < objective(old, old, edits, kept, settings)


def test_what_is_preserved_changes_less_the_more_it_counts() -> None:
    texts = Texts(seed=3)
    edits, kept = [texts.edit()], [texts.text()]
    (old,) = texts.projections(ROWS)
    state = kept[0].states[kept[0].last]
    changes = []
    for scale in (0.0, 0.1, 1.0, 10.0, 1e6):
        new = edited({"w": old}, uce_map(edits, kept, UceSettings(preserve_scale=scale)))["w"]
        changes.append(float((new @ state - old @ state).norm()))
    assert changes == sorted(changes, reverse=True)
    assert changes[-1] < 1e-5 * changes[0]


def test_what_is_erased_says_more_and_more_what_its_guide_says() -> None:
    texts = Texts(seed=4)
    edit = texts.edit()
    (old,) = texts.projections(ROWS)
    erased, guide = (part[0] for part in edit_tokens(edit, "last"))
    distances = [
        float(
            (
                edited({"w": old}, uce_map([edit], [], UceSettings(lamb=lamb)))["w"] @ erased
                - old @ guide
            ).norm()
        )
        for lamb in (100.0, 1.0, 1e-2, 1e-8)
    ]
    assert all(before > after for before, after in itertools.pairwise(distances))
    assert distances[-1] < 1e-6


@pytest.mark.parametrize("tokens", ["last", "rest", "all"])
def test_nothing_to_move_changes_no_bit(tokens: Tokens) -> None:
    texts = Texts(seed=5)
    same = texts.text()
    (old,) = texts.projections(ROWS)
    old = old.half()
    settings = UceSettings(tokens=tokens)
    identity = uce_map([Edit(erased=same, guide=same)], [texts.text()], settings)
    assert torch.equal(identity, torch.eye(WIDTH, dtype=torch.float64))
    assert torch.equal(edited({"w": old}, identity)["w"], old)


def test_the_rest_of_two_texts_is_aligned_at_their_last_subject_tokens() -> None:
    texts = Texts(seed=6)
    edit = Edit(erased=texts.text(last=3), guide=texts.text(last=1))
    erased, guide = edit_tokens(edit, "rest")
    assert torch.equal(erased, edit.erased.states[3:5])
    assert torch.equal(guide, edit.guide.states[1:3])


@pytest.mark.parametrize(
    "wrong",
    [{"lamb": 0.0}, {"lamb": float("nan")}, {"erase_scale": -1.0}, {"preserve_scale": -1.0}],
)
def test_a_strength_without_a_solution_is_refused_by_its_option(wrong: dict[str, float]) -> None:
    (name,) = wrong
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')}"):
        UceSettings(**wrong)  # type: ignore[arg-type]


def test_a_projection_of_another_width_is_refused() -> None:
    change = uce_map([Texts(seed=0).edit()], [], UceSettings())
    with pytest.raises(UserError, match="does not see the prompt"):
        edited({"w": torch.zeros(ROWS, WIDTH + 1)}, change)
