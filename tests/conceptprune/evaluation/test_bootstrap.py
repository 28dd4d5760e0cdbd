"""Intervals: they hold what they should, and depend on nothing they should not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from conceptprune.evaluation.bootstrap import mean_interval, wilson

VALUES = st.lists(st.floats(-10, 10, allow_nan=False), min_size=1, max_size=40)


@given(VALUES, st.randoms())
@settings(max_examples=40, deadline=None)
def test_the_mean_lies_inside_and_order_does_not_matter(
    values: list[float], random: object
) -> None:
    interval = mean_interval(values, resamples=200, seed=3, what="x")
    assert interval.low <= interval.value <= interval.high
    if interval.method == "bootstrap":
        assert min(values) - 1e-9 <= interval.low
        assert interval.high <= max(values) + 1e-9
    shuffled = list(values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert mean_interval(shuffled, resamples=200, seed=3, what="x") == interval


@pytest.mark.parametrize("hits", [0, 20])
def test_twenty_alike_are_no_certainty(hits: int) -> None:
    interval = mean_interval([1.0] * hits + [0.0] * (20 - hits), resamples=200, seed=0)
    assert interval.method == "wilson"
    assert interval.high - interval.low == pytest.approx(0.161, abs=0.001)


def test_seed_and_name_decide_the_resamples() -> None:
    values = list(np.random.default_rng(0).random(30))
    found = {
        mean_interval(values, resamples=300, seed=seed, what=what).low
        for seed in (0, 1)
        for what in ("a", "b")
    }
    assert len(found) == 4


def test_intervals_cover_the_true_mean_about_as_often_as_they_say() -> None:
    generator = np.random.default_rng(1)
    covered = 0
    for index in range(200):
        values = generator.exponential(1.0, 60)
        interval = mean_interval(list(values), resamples=400, seed=index)
        covered += interval.low <= 1.0 <= interval.high
    assert 0.88 <= covered / 200 <= 0.99


@pytest.mark.parametrize(("hits", "total"), [(0, 48), (3, 48), (24, 48), (48, 48), (1, 1), (5, 7)])
def test_wilson_s_interval_is_scipy_s_but_for_the_rounded_quantile(hits: int, total: int) -> None:
    exact = binomtest(hits, total).proportion_ci(0.95, method="wilson")
    assert wilson(hits, total) == pytest.approx((exact.low, exact.high), abs=2e-5)
