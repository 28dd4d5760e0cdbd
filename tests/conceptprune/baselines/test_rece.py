"""RECE finds what still generates a concept, and leaves less and less of it to be found."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from conceptprune.baselines.rece import (
    AGAIN,
    FIRST,
    ReceSettings,
    gram_of,
    published,
    rece_map,
    returning,
)
from conceptprune.baselines.uce import Edit, uce_map
from conceptprune.edits.projections import edited
from conceptprune.errors import UserError
from conceptprune.manifest import Kind
from tests.conceptprune.baselines.random_texts import WIDTH, Texts


def still_missing(old: list[Tensor], change: Tensor, edit: Edit, weight: float) -> float:
    """How far from the concept the best embedding for it stays, its own length included."""
    found = returning(edit.erased, gram_of(old), change, weight).states
    aims = torch.cat([edit.erased.states @ one.T for one in old], dim=1)
    says = torch.cat([found @ (one @ change).T for one in old], dim=1)
    return float(((aims - says) ** 2).sum() + weight * (found**2).sum())


def test_the_returning_embedding_solves_the_published_least_squares() -> None:
    texts = Texts(seed=0)
    edit, old = texts.edit(), texts.projections(3, 5)
    change = uce_map([edit], [texts.text()], FIRST)
    new = list(edited(dict(zip("ab", old, strict=True)), change).values())
    regularisation = 0.05

    found = returning(edit.erased, gram_of(old), change, regularisation)
    states = found.states.clone().requires_grad_()
    loss = regularisation * (states**2).sum()
    for before, after in zip(old, new, strict=True):
        loss = loss + ((states @ after.T - edit.erased.states @ before.T) ** 2).sum()
    (gradient,) = torch.autograd.grad(loss, states)
    assert gradient.abs().max() < 1e-10
    assert found.last == edit.erased.last


def test_of_an_untouched_model_the_concept_itself_returns() -> None:
    texts = Texts(seed=1)
    edit, old = texts.edit(), texts.projections(9, 9)
    identity = torch.eye(WIDTH, dtype=torch.float64)
    found = returning(edit.erased, gram_of(old), identity, 1e-12)
    assert torch.allclose(found.states, edit.erased.states, atol=1e-9)


def test_each_epoch_leaves_the_concept_harder_to_generate_than_uce_did() -> None:
    texts = Texts(seed=2)
    edit, old = texts.edit(), texts.projections(4, 7)
    gram, weight = gram_of(old), ReceSettings().regularisation
    changes = [uce_map([edit], [], FIRST)]
    changes += [rece_map([edit], [], gram, ReceSettings(epochs=epochs)) for epochs in (1, 2, 4)]
    missing = [still_missing(old, change, edit, weight) for change in changes]
    assert missing == sorted(missing)
    assert missing[-1] > 2 * missing[0]


def test_an_epoch_is_one_more_edit_of_what_returned() -> None:
    texts = Texts(seed=3)
    edit, kept, old = texts.edit(), [texts.text()], texts.projections(4)
    gram, settings = gram_of(old), ReceSettings(epochs=1)
    first = uce_map([edit], kept, FIRST)
    found = replace(edit, erased=returning(edit.erased, gram, first, settings.regularisation))
    by_hand = edited(edited({"w": old[0]}, first), uce_map([found], kept, AGAIN))["w"]
    at_once = edited({"w": old[0]}, rece_map([edit], kept, gram, settings))["w"]
    assert torch.allclose(at_once, by_hand, rtol=1e-10)


@pytest.mark.parametrize(
    ("kinds", "settings"),
    [
        (["style", "style"], (1, 1e-3)),
        (["nudity"], (3, 0.1)),
        (["object", "style"], (1, 1e-3)),
    ],
)
def test_published_settings_are_those_of_the_authors_for_the_kind(
    kinds: list[Kind], settings: tuple[int, float]
) -> None:
    assert published(kinds) == settings


def test_kinds_whose_published_settings_differ_are_not_erased_together() -> None:
    with pytest.raises(UserError, match="--epochs and --regularisation"):
        published(["style", "nudity"])


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"regularisation": 0.0}])
def test_settings_that_find_nothing_are_refused(wrong: dict[str, float]) -> None:
    (name,) = wrong
    with pytest.raises(UserError, match=f"--{name}"):
        ReceSettings(**wrong)  # type: ignore[arg-type]
