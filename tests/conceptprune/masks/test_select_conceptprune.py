"""The selector: what is chosen on small cases that can be worked out by hand."""

import numpy as np
import pytest
import torch

from conceptprune.collection.statistics import LayerStatistics, Statistics
from conceptprune.errors import EmptyMaskError, UserError
from conceptprune.masks.select_conceptprune import base_energy
from conceptprune.masks.selectors import Evidence, named_selector, select_entries

WEIGHT = torch.tensor([[4.0, -3.0, 2.0, 1.0], [1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]])


def side(energy: list[list[float]], prompts: int = 1) -> Statistics:
    sums = np.array(energy, dtype=np.float64)
    layer = LayerStatistics(sum_sq=sums, sum_norm=sums, num_rows=1)
    timesteps = tuple(map(float, range(len(energy))))
    return Statistics(first_call=0, timesteps=timesteps, num_prompts=prompts, layers={"ff": layer})


def select(
    target: list[list[float]],
    base: list[list[float]],
    weight: torch.Tensor = WEIGHT,
    **settings: object,
) -> list[int]:
    evidence = Evidence(target=side(target), base=side(base))
    selector = named_selector("conceptprune", **settings)
    return select_entries({"ff": weight}, evidence, selector)["ff"].tolist()


def test_the_largest_scores_of_each_row_are_chosen_where_the_target_is_stronger() -> None:
    # Scores |W| * sqrt(energy) of row 0: 4, 6, 10, 1; the target is stronger in columns 1 to 3.
    chosen = select([[1, 4, 25, 1]], [[2, 1, 1, 0.5]], sparsity=0.5)
    assert chosen == [1, 2, 5, 6]


def test_a_column_must_be_strictly_stronger_than_the_base() -> None:
    weight = torch.ones(1, 4)
    assert select([[9, 4, 1, 1]], [[9, 1, 0, 0]], sparsity=0.5, weight=weight) == [1]


def test_of_equal_scores_the_leftmost_are_chosen() -> None:
    equal = torch.ones(2, 6)
    assert select([[1] * 6], [[0] * 6], weight=equal, sparsity=0.5) == [0, 1, 2, 6, 7, 8]


def test_weights_that_are_zero_are_never_chosen() -> None:
    assert 7 not in select([[1, 1, 1, 100]], [[0, 0, 0, 0]], sparsity=1.0)


def test_calls_are_united_and_a_threshold_asks_for_more_of_them() -> None:
    target = [[9, 1, 1, 1], [1, 9, 1, 1], [1, 1, 9, 1], [9, 1, 1, 1]]
    base = [[0.0] * 4] * 4
    weight = torch.ones(1, 4)
    assert select(target, base, weight=weight, sparsity=0.25) == [0, 1, 2]
    # Column 0 is chosen in 2 of 4 calls: more than 0.3 * 4, but not more than 0.5 * 4.
    assert select(target, base, weight=weight, sparsity=0.25, threshold=0.3) == [0]
    with pytest.raises(EmptyMaskError):
        select(target, base, weight=weight, sparsity=0.25, threshold=0.5)
    assert select(target, base, weight=weight, sparsity=0.25, tau=1) == [0]


def test_k_is_rounded_down_and_less_than_one_column_is_refused() -> None:
    assert select([[9, 1, 1, 1]], [[0] * 4], sparsity=0.49, weight=torch.ones(1, 4)) == [0]
    with pytest.raises(UserError, match=r"0\.2 of the 4 columns of ff .*min_per_row: 1"):
        select([[9, 1, 1, 1]], [[0] * 4], sparsity=0.2, weight=torch.ones(1, 4))
    assert select(
        [[9, 1, 1, 1]], [[0] * 4], sparsity=0.2, min_per_row=1, weight=torch.ones(1, 4)
    ) == [0]


def test_a_target_like_its_base_is_an_error_and_not_an_empty_mask() -> None:
    with pytest.raises(EmptyMaskError, match="base and target prompts differ"):
        select([[1, 2, 3, 4]], [[1, 2, 3, 4]], sparsity=0.5)


def test_more_calls_than_were_collected_are_refused() -> None:
    with pytest.raises(UserError, match=r"pruning\.tau: 2 calls asked for, 1 collected"):
        select([[1, 2, 3, 4]], [[0] * 4], sparsity=0.5, tau=2)


def test_a_plain_base_is_the_base_prompts_own_energy() -> None:
    plain = side([[1, 2, 3]], 4)
    assert base_energy("ff", plain, [], "plain", num_prompts=4).tolist() == [[1, 2, 3]]


def test_retained_concepts_count_per_prompt_at_the_targets_scale() -> None:
    plain, retained = side([[2, 4, 0]], 2), side([[3, 0, 3]], 1)
    mean = base_energy("ff", plain, [retained], "plain+retained-mean", num_prompts=10)
    largest = base_energy("ff", plain, [retained], "plain+retained-max", num_prompts=10)
    assert mean.tolist() == [[20, 10, 15]]
    assert largest.tolist() == [[30, 20, 30]]
    with pytest.raises(UserError, match="retain"):
        base_energy("ff", plain, [], "plain+retained-max", num_prompts=10)
