"""Statistics add, join and travel through Arrow without losing a bit."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conceptprune.collection.statistics import LayerStatistics, Statistics, join_calls, merge_shards
from conceptprune.store import parquet_to_table, table_to_parquet


def make(seed: int, *, first_call: int = 0, num_calls: int = 3, prompts: int = 2) -> Statistics:
    """Statistics whose sums are whole numbers, so that adding them is exact in any order."""
    rng = np.random.default_rng(seed)
    layers = {
        name: LayerStatistics(
            sum_sq=rng.integers(0, 1000, (num_calls, width)).astype(float),
            sum_norm=rng.integers(0, 1000, (num_calls, width)).astype(float),
            num_rows=16 * prompts,
        )
        for name, width in (("down.ff.net.2", 5), ("up.ff.net.2", 8))
    }
    timesteps = tuple(float(981 - 20 * (first_call + call)) for call in range(num_calls))
    return Statistics(
        first_call=first_call, timesteps=timesteps, num_prompts=prompts, layers=layers
    )


def equal(a: Statistics, b: Statistics) -> bool:
    return a.to_arrow().equals(b.to_arrow())


@given(st.lists(st.integers(0, 10_000), min_size=3, max_size=4))
def test_merging_is_associative_and_does_not_depend_on_order(seeds: list[int]) -> None:
    shards = [make(seed) for seed in seeds]
    left = merge_shards(shards)
    right = shards[0].merge(merge_shards(shards[1:]))
    assert equal(left, right)
    assert all(equal(left, merge_shards(order)) for order in permutations(shards))
    assert left.num_prompts == 2 * len(shards)


def test_joining_windows_in_any_order_changes_nothing() -> None:
    windows = [make(1), make(2, first_call=3, num_calls=2), make(3, first_call=5, num_calls=1)]
    joined = [join_calls(order) for order in permutations(windows)]
    assert all(equal(joined[0], other) for other in joined)
    assert joined[0].num_calls == 6
    assert joined[0].energy(tau=4)["up.ff.net.2"].shape == (4, 8)


def test_windows_with_a_gap_do_not_join() -> None:
    with pytest.raises(ValueError, match="call 3 wanted, 4 found"):
        join_calls([make(1), make(2, first_call=4)])


def test_statistics_of_other_calls_or_layers_do_not_merge() -> None:
    with pytest.raises(ValueError, match="calls"):
        make(1).merge(make(2, num_calls=4))
    other = make(2)
    fewer = Statistics(
        first_call=0,
        timesteps=other.timesteps,
        num_prompts=2,
        layers={"down.ff.net.2": other.layers["down.ff.net.2"]},
    )
    with pytest.raises(ValueError, match="layers"):
        make(1).merge(fewer)


def test_parquet_gives_the_statistics_back_with_equal_bytes_for_equal_statistics() -> None:
    statistics = make(4, first_call=2)
    data = table_to_parquet(statistics.to_arrow({"side": "x"}))
    assert equal(Statistics.from_arrow(parquet_to_table(data)), statistics)
    assert data == table_to_parquet(make(4, first_call=2).to_arrow({"side": "x"}))


def test_a_table_with_missing_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="complete grid"):
        Statistics.from_arrow(make(4).to_arrow().slice(1))
