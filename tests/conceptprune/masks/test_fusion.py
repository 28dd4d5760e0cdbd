"""Fuse: what of several masks is pruned, worked out by hand or by a slow plain reading."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conceptprune.collection.statistics import LayerStatistics, Statistics
from conceptprune.errors import EmptyMaskError, ModelMismatchError, UserError
from conceptprune.manifest import Fuse
from conceptprune.masks.budget import Drive
from conceptprune.masks.fusion import Drives, fuse_masks
from conceptprune.masks.layer_mask import LayerMask
from conceptprune.masks.mask import PruningMask, union_masks

SHAPES = {"a": (3, 4), "b": (2, 6)}
SIZE = 12
Entries = dict[str, Sequence[int]]


def mask(name: str, entries: Entries, digest: str = "0") -> PruningMask:
    layers = {
        layer: LayerMask(
            shape=shape,
            entries=np.array(sorted(entries.get(layer, ())), dtype=np.int64),
            weight_digest=digest,
        )
        for layer, shape in SHAPES.items()
    }
    return PruningMask(concepts=(name,), component="unet", layers=layers, provenance={})


def pruned(fused: PruningMask) -> dict[str, list[int]]:
    return {name: layer.entries.tolist() for name, layer in fused.layers.items()}


def drive(columns: dict[str, list[float]]) -> Drive:
    """A drive by columns alone, the same in every row."""
    return Drive(
        columns={name: np.array(c, dtype=np.float32) for name, c in columns.items()},
        rows={name: np.ones(shape[0], dtype=np.float32) for name, shape in SHAPES.items()},
    )


ONES = {name: torch.ones(shape) for name, shape in SHAPES.items()}
EVERY = {name: range(SIZE) for name in SHAPES}

SETS = st.lists(st.sets(st.integers(0, SIZE - 1), min_size=1), min_size=1, max_size=6)


@given(sets=SETS, alpha=st.floats(0.01, 1))
def test_retain_shared_prunes_what_fewer_than_a_share_of_the_concepts_select(
    sets: list[set[int]], alpha: float
) -> None:
    masks = [mask(str(index), {"a": sorted(entries)}) for index, entries in enumerate(sets)]
    counts = [sum(entry in entries for entries in sets) for entry in range(SIZE)]
    expected = [e for e, n in enumerate(counts) if n and (n == 1 or n < alpha * len(sets))]
    if expected:
        assert pruned(fuse_masks(masks, Fuse(how="retain-shared", alpha=alpha)))["a"] == expected
    else:
        with pytest.raises(EmptyMaskError, match="alpha"):
            fuse_masks(masks, Fuse(how="retain-shared", alpha=alpha))
    assert pruned(fuse_masks(masks, Fuse(how="union"))) == pruned(union_masks(masks))


def test_a_fused_mask_says_what_it_is_made_of() -> None:
    masks = [mask("x", {"a": [1]}), mask("y", {"a": [2]})]
    fused = fuse_masks(masks, Fuse(how="retain-shared", alpha=0.7))
    assert fused.concepts == ("x", "y")
    assert fused.provenance["fusion"] == {"how": "retain-shared", "alpha": 0.7}
    assert [part["digest"] for part in fused.provenance["masks"]] == [m.digest for m in masks]
    assert fuse_masks(masks, Fuse(how="union")).digest == union_masks(masks).digest


@pytest.mark.parametrize(
    "fusion",
    [Fuse(how="union"), Fuse(how="retain-shared"), Fuse(how="budget")],
    ids=lambda f: f.how,
)
def test_masks_of_different_weights_are_refused(fusion: Fuse) -> None:
    with pytest.raises(ModelMismatchError, match="x and y"):
        fuse_masks([mask("x", {"a": [1]}), mask("y", {"a": [1]}, digest="1")], fusion)


def test_a_budget_is_spent_on_the_largest_summed_saliency_after_each_ones_fair_share() -> None:
    # A budget of 8 of 24 weights: two entries are each concept's own, four go to the sums.
    loud = drive({"a": [9, 8, 7, 6], "b": [5, 5, 5, 5, 5, 5]})
    quiet = drive({"a": [0, 0, 0, 0], "b": [1, 2, 3, 4, 1, 1]})
    masks = [mask("loud", EVERY), mask("quiet", {"b": [1, 2, 3]})]
    fused = fuse_masks(
        masks, Fuse(how="budget", fraction=8 / 24), Drives(weights=ONES, concepts=[loud, quiet])
    )
    # loud's own: a[0], a[4]; quiet's: b[2], b[3]; then a[8] (9), b[3] is taken, a[1], a[5], a[9].
    assert pruned(fused) == {"a": [0, 1, 4, 5, 8, 9], "b": [2, 3]}


def test_saliencies_add_up_over_the_concepts_that_select_an_entry() -> None:
    one = drive({"a": [4, 3, 3, 3], "b": [0] * 6})
    masks = [mask("x", {"a": range(8)}), mask("y", {"a": [1, 4, 5]})]
    fused = fuse_masks(
        masks, Fuse(how="budget", fraction=4 / 24), Drives(weights=ONES, concepts=[one, one])
    )
    # Each one's own: a[0] and a[4]; then a[1] and a[5], which both select (3 + 3).
    assert pruned(fused)["a"] == [0, 1, 4, 5]


def test_what_matters_more_to_a_retained_concept_is_spared() -> None:
    erased = drive({"a": [9, 8, 7, 6], "b": [1] * 6})
    kept = drive({"a": [10, 8, 0, 0], "b": [0] * 6})
    drives = Drives(weights=ONES, concepts=[erased], retained=[kept])
    fused = fuse_masks([mask("x", EVERY)], Fuse(how="budget", fraction=4 / 24), drives)
    # Column 0 is spared; column 1 matters as much to both and is not.
    assert pruned(fused) == {"a": [1, 2, 5, 9], "b": []}


def test_a_budget_that_covers_the_union_prunes_all_of_it_that_has_saliency() -> None:
    some = drive({"a": [1, 0, 1, 1], "b": [1] * 6})
    masks = [mask("x", {"a": [0, 1, 2]}), mask("y", {"b": [5]})]
    drives = Drives(weights=ONES, concepts=[some, some])
    assert pruned(fuse_masks(masks, Fuse(how="budget", fraction=1.0), drives)) == {
        "a": [0, 2],
        "b": [5],
    }


def test_a_concept_that_would_lose_nothing_is_an_error_that_names_it() -> None:
    none = drive({"a": [0] * 4, "b": [0] * 6})
    some = drive({"a": [1] * 4, "b": [1] * 6})
    drives = Drives(weights=ONES, concepts=[some, none])
    masks = [mask("loud", EVERY), mask("mute", EVERY)]
    with pytest.raises(EmptyMaskError, match='"mute"'):
        fuse_masks(masks, Fuse(how="budget", fraction=0.5), drives)
    with pytest.raises(UserError, match="2 weights, too few for 2 concepts"):
        fuse_masks(masks, Fuse(how="budget", fraction=0.1), drives)


@given(
    sets=st.lists(st.sets(st.integers(0, 2 * SIZE - 1), min_size=1), min_size=1, max_size=4),
    fraction=st.floats(0.4, 1),
    seed=st.integers(0, 99),
)
def test_a_budget_is_never_exceeded_and_takes_only_what_masks_have(
    sets: list[set[int]], fraction: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    masks = [
        mask(
            str(index),
            {
                "a": [entry for entry in entries if entry < SIZE],
                "b": [entry - SIZE for entry in entries if entry >= SIZE],
            },
        )
        for index, entries in enumerate(sets)
    ]
    drives = [
        drive(
            {"a": (1 + rng.integers(0, 3, 4)).tolist(), "b": (1 + rng.integers(0, 3, 6)).tolist()}
        )
        for _ in sets
    ]
    fused = fuse_masks(
        masks, Fuse(how="budget", fraction=fraction), Drives(weights=ONES, concepts=drives)
    )
    together = union_masks(masks)
    budget = int(fraction * 2 * SIZE)
    assert fused.num_entries == min(budget, together.num_entries)
    for name, layer in fused.layers.items():
        assert set(layer.entries.tolist()) <= set(together.layers[name].entries.tolist())


def test_a_drive_is_the_share_of_its_row_that_is_the_concepts_own() -> None:
    def side(norms: list[float]) -> Statistics:
        sums = np.array([norms])
        layer = LayerStatistics(sum_sq=sums**2, sum_norm=sums, num_rows=1)
        return Statistics(first_call=0, timesteps=(1.0,), num_prompts=1, layers={"a": layer})

    weight = torch.tensor([[1.0, -2.0, 1.0]])
    found = Drive.of({"a": weight}, side([4, 2, 2]), side([1, 1, 2]))
    # The row is fed 4 + 4 + 2; the concept's own are 3, 1 and 0 of its columns.
    magnitude = weight.abs().numpy().reshape(-1)
    saliency = found.saliency("a", magnitude, np.arange(3))
    assert saliency.tolist() == pytest.approx([0.3, 0.2, 0.0])
