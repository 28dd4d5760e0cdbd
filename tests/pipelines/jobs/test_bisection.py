"""The search for the least strength that is enough."""

from collections.abc import Callable
from math import ceil, log2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.jobs.bisection import Bisection

RATES = st.lists(st.floats(0, 1), min_size=1, max_size=40)
ENOUGH = st.floats(0, 1, exclude_max=True)


def searched(rates: list[float], enough: float) -> Bisection:
    search = Bisection(count=len(rates), enough=enough)
    while (index := search.next) is not None:
        assert index not in search.rates
        search.measured(rates[index])
    return search


@given(RATES.map(lambda rates: sorted(rates, reverse=True)), ENOUGH)
def test_where_more_strength_never_shows_more_it_finds_the_least_that_is_enough(
    rates: list[float], enough: float
) -> None:
    search = searched(rates, enough)
    least = next((index for index, rate in enumerate(rates) if rate <= enough), None)
    assert search.found == least
    if least is None:
        assert rates[search.furthest] == min(rates)


@given(RATES, ENOUGH)
def test_whatever_the_rates_it_answers_after_few_measurements_with_one_of_them(
    rates: list[float], enough: float
) -> None:
    search = searched(rates, enough)
    assert 1 <= len(search.rates) <= ceil(log2(len(rates) + 1))
    assert search.rates.items() <= dict(enumerate(rates)).items()
    assert search.furthest in search.rates
    if search.found is None:
        assert all(rate > enough for rate in search.rates.values())
    else:
        assert search.rates[search.found] <= enough


def test_seven_strengths_take_three_measurements() -> None:
    assert {len(searched([1.0] * n + [0.0] * (7 - n), 0.05).rates) for n in range(8)} == {3}


def test_without_an_answer_it_names_the_weakest_of_those_that_got_furthest() -> None:
    assert searched([1.0, 0.9, 0.9, 0.5, 0.5, 0.5, 0.5], 0.05).furthest == 3


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Bisection(count=0, enough=0.0),
        lambda: searched([0.0], 0.0).measured(0.0),
        lambda: Bisection(count=1, enough=0.0).furthest,
    ],
)
def test_it_answers_nothing_that_it_does_not_know(wrong: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"nothing|empty"):
        wrong()
