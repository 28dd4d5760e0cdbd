"""The second selector against a plain float64 reading of it, and what both share."""

import numpy as np
import pytest
import torch

from conceptprune.collection.statistics import LayerStatistics, Statistics
from conceptprune.errors import EmptyMaskError, UserError
from conceptprune.masks.selectors import (
    Evidence,
    named_selector,
    select_entries,
    stronger_neurons,
)
from tests.fidelity import reference_fia

CALLS = 4


def statistics(norms: np.ndarray) -> Statistics:
    """Of norms [P, T, C], as collecting them would give."""
    layer = LayerStatistics(
        sum_sq=np.square(norms).sum(axis=0), sum_norm=norms.sum(axis=0), num_rows=len(norms)
    )
    return Statistics(
        first_call=0,
        timesteps=tuple(map(float, range(norms.shape[1]))),
        num_prompts=len(norms),
        layers={"ff": layer},
    )


def norms(seed: int, prompts: int = 6, width: int = 50) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    base = rng.gamma(2.0, size=(prompts, CALLS, width))
    # A concept has some neurons of its own.
    target = base + 3 * rng.gamma(2.0, size=(prompts, CALLS, width)) * (rng.random(width) < 0.3)
    return target, base


def evidence(target: np.ndarray, base: np.ndarray, **more: object) -> Evidence:
    return Evidence(target=statistics(target), base=statistics(base), **more)  # type: ignore[arg-type]


def fia(weight: torch.Tensor, evidence: Evidence, **settings: object) -> list[int]:
    return select_entries({"ff": weight}, evidence, named_selector("fia", **settings))[
        "ff"
    ].tolist()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("r1", "r2"), [(0.05, 0.02), (0.3, 0.1), (0.5, 0.5)])
def test_fia_selects_what_a_plain_reading_of_it_does(seed: int, r1: float, r2: float) -> None:
    weight = torch.randn(20, 50, generator=torch.Generator().manual_seed(seed))
    target, base = norms(seed)
    chosen = fia(weight, evidence(target, base), r1=r1, r2=r2)
    expected = reference_fia.mask(weight.double().numpy(), target, base, r1=r1, r2=r2)
    assert chosen == np.flatnonzero(expected).tolist()
    assert len(chosen)


def test_fia_looks_at_the_first_tau_calls_only() -> None:
    weight = torch.randn(20, 50, generator=torch.Generator().manual_seed(0))
    target, base = norms(0)
    first = fia(weight, evidence(target[:, :2], base[:, :2]), r2=0.1)
    assert fia(weight, evidence(target, base), r2=0.1, tau=2) == first
    with pytest.raises(UserError, match=r"pruning\.tau: 9 calls asked for, 4 collected"):
        fia(weight, evidence(target, base), tau=9)


def test_of_equal_scores_fia_takes_the_first() -> None:
    target, base = np.ones((1, 1, 10)), np.zeros((1, 1, 10))
    chosen = fia(torch.ones(4, 10), evidence(target, base), r1=1.0, r2=0.3)
    # The first three of each row that are among the first twelve of the layer.
    assert chosen == [0, 1, 2, 10, 11]


def test_a_neuron_within_the_spread_of_the_base_is_not_fias() -> None:
    base = np.array([[[0.0, 1.0]], [[2.0, 1.0]]])  # Means 1 and 1, deviations 1 and 0.
    target = np.array([[[1.9, 1.9]], [[1.9, 1.9]]])
    found = evidence(target, base)
    assert fia(torch.ones(3, 2), found, r1=1.0, r2=1.0) == [1, 3, 5]
    assert stronger_neurons("fia", "ff", found).tolist() == [[False, True]]
    assert stronger_neurons("conceptprune", "ff", found).tolist() == [[True, True]]


def test_retained_concepts_raise_what_fia_must_exceed() -> None:
    target, base = np.full((1, 1, 2), 4.0), np.zeros((1, 1, 2))
    kept = statistics(np.array([[[5.0, 1.0]]]))
    found = evidence(target, base, retained=[kept], rule="plain+retained-max")
    assert fia(torch.ones(1, 2), found, r1=1.0, r2=1.0) == [1]


def test_shares_that_come_to_nothing_are_refused() -> None:
    target, base = norms(1, width=4)
    for settings, field in (
        ({"r1": 1.0, "r2": 0.1}, "r2"),
        ({"r1": 0.01, "r2": 1.0}, "r1"),
    ):
        with pytest.raises(UserError, match=rf"pruning\.{field}: .* is none; raise it"):
            fia(torch.ones(3, 4), evidence(target, base), **settings)


def test_a_target_like_its_base_leaves_fia_nothing() -> None:
    target, _ = norms(2)
    with pytest.raises(EmptyMaskError):
        fia(torch.ones(20, 50), evidence(target, target))


def test_a_selector_may_be_any_function_that_marks_weights_or_numbers_them() -> None:
    weight = torch.ones(2, 3)
    found = evidence(np.full((1, 1, 3), 2.0), np.array([[[1.0, 3.0, 1.0]]]))

    def stronger(layer: str, weight: torch.Tensor, evidence: Evidence) -> np.ndarray:
        columns = evidence.target.layers[layer].sum_sq[0] > evidence.base.layers[layer].sum_sq[0]
        return np.broadcast_to(columns, weight.shape)

    assert select_entries({"ff": weight}, found, stronger)["ff"].tolist() == [0, 2, 3, 5]
    as_tensor = select_entries({"ff": weight}, found, lambda *_: torch.tensor([5, 1, 5]))
    assert as_tensor["ff"].tolist() == [1, 5]


@pytest.mark.parametrize("wrong", [[6], [-1], [0.5], [[True, False]], [True] * 6, None], ids=repr)
def test_what_is_no_choice_of_weights_is_refused(wrong: object) -> None:
    found = evidence(np.ones((1, 1, 3)), np.zeros((1, 1, 3)))
    with pytest.raises(UserError, match=r"for ff; it should give True or False .* \[2, 3\]"):
        select_entries({"ff": torch.ones(2, 3)}, found, lambda *_: wrong)  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize(
    ("name", "settings", "problem"),
    [
        ("fai", {}, "selector: found 'fai', allowed is conceptprune, fia"),
        (
            "fia",
            {"sparsity": 0.5},
            "sparsity: found 0.5, allowed is nothing: it is a setting of selector",
        ),
        (
            "conceptprune",
            {"sparsity": 2},
            "sparsity: found 2, allowed is a number above 0 and at most 1",
        ),
        ("conceptprune", {"sparsety": 0.5}, "sparsety: found 0.5, .*nearest: sparsity"),
    ],
)
def test_a_selectors_settings_are_checked(
    name: str, settings: dict[str, object], problem: str
) -> None:
    with pytest.raises(UserError, match=problem):
        named_selector(name, **settings)  # type: ignore[arg-type]
