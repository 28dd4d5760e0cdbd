"""Second moments are additive; their map moves what is erased and leaves what is kept."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conceptprune.edits.moments import Moments, Shift, merged, shift_map


def rows(count, seed, width=12):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)).double()


@given(cut=st.integers(1, 29), seed=st.integers(0, 100))
def test_moments_of_shards_add_up_to_those_of_all(cut, seed):
    inputs, wanted = rows(30, seed), rows(30, seed + 1)
    whole = Shift.of(inputs, wanted)
    parts = Shift.of(inputs[:cut], wanted[:cut]).merge(Shift.of(inputs[cut:], wanted[cut:]))
    assert parts.rows == whole.rows == 30
    assert torch.allclose(parts.gram, whole.gram)
    assert torch.allclose(parts.cross, whole.cross)
    kept = merged([Moments.of(inputs[:cut]), Moments.of(inputs[cut:])])
    assert torch.allclose(kept.mean, inputs.T @ inputs / 30)


def test_inputs_of_many_prompts_are_rows():
    states = rows(24, 0).view(2, 12, 12)
    assert Moments.of(states).rows == 24
    assert torch.equal(Moments.of(states).gram, Moments.of(states.flatten(0, 1)).gram)


def test_erased_inputs_become_the_wanted_ones_and_kept_ones_stay():
    erased, wanted, kept = rows(3, 1), rows(3, 2), rows(6, 3)
    change = shift_map(Shift.of(erased, wanted), [(1.0, Moments.of(kept))], ridge=1e-12)
    assert torch.allclose(erased @ change.T, wanted, atol=1e-4)
    assert torch.allclose(kept @ change.T, kept, atol=1e-4)


def test_what_no_input_has_stays():
    erased, wanted = rows(3, 1), rows(3, 2)
    erased[:, 6:] = 0
    change = shift_map(Shift.of(erased, wanted), [])
    unseen = torch.cat([torch.zeros(1, 6), rows(1, 4)[:, 6:]], 1).double()
    assert torch.allclose(unseen @ change.T, unseen, atol=1e-5)


def test_the_map_is_the_minimum_of_what_the_docstring_says():
    inputs, wanted, kept = rows(20, 1), rows(20, 2), rows(25, 3)
    change = shift_map(Shift.of(inputs, wanted), [(2.0, Moments.of(kept))], ridge=0.01)
    change.requires_grad_()
    mean = inputs.square().sum(1).mean() + 2 * kept.square().sum(1).mean()
    cost = (inputs @ change.T - wanted).square().sum(1).mean()
    cost = cost + 2 * (kept @ change.T - kept).square().sum(1).mean()
    cost = cost + 0.01 * mean / 12 * (change - torch.eye(12)).square().sum()
    cost.backward()
    assert change.grad.abs().max() < 1e-9


@given(times=st.integers(2, 5))
def test_the_number_of_prompts_does_not_change_the_strength(times):
    erased, wanted, kept = rows(20, 1), rows(20, 2), rows(25, 3)
    once = shift_map(Shift.of(erased, wanted), [(1.0, Moments.of(kept))])
    often = shift_map(Shift.of(erased, wanted), [(1.0, Moments.of(kept.repeat(times, 1)))])
    assert torch.allclose(once, often)


def test_the_stronger_the_kept_side_the_less_it_moves():
    erased, wanted, kept = rows(20, 1), rows(20, 2), rows(25, 3)
    moved = []
    for strength in (0.1, 1.0, 10.0):
        change = shift_map(Shift.of(erased, wanted), [(strength, Moments.of(kept))])
        moved.append(float((kept @ change.T - kept).square().sum()))
    assert moved == sorted(moved, reverse=True)


def test_pairs_of_unequal_shapes_and_negative_strengths_are_refused():
    with pytest.raises(ValueError, match=r"\[3, 12\] with \[4, 12\]"):
        Shift.of(rows(3, 1), rows(4, 2))
    with pytest.raises(ValueError, match="at least 0"):
        shift_map(Shift.of(rows(3, 1), rows(3, 2)), [(-1.0, Moments.of(rows(3, 3)))])
