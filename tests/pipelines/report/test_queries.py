"""The README's queries, word for word, over a store with real runs: the answers are the masks'."""

import re
from pathlib import Path
from typing import Any

import duckdb
import pytest

from conceptprune.collection.statistics import Statistics
from conceptprune.store import parquet_to_table
from conceptprune.units.results import read_mask
from pipelines.records.ledger import read_ledger
from tests.pipelines.report.conftest import ERROR, FAILING, Run

README = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")


def queries() -> list[str]:
    (block,) = re.findall(r"```sql\n(.*?)```", README, flags=re.DOTALL)
    return [query for query in block.split(";") if query.strip()]


@pytest.fixture
def answers(
    runs: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[list[tuple[Any, ...]]]:
    """What each query answers where the store lies as the README has it."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "demo").symlink_to(runs["judged"].store.uri)
    monkeypatch.chdir(tmp_path)
    return [duckdb.sql(query).fetchall() for query in queries()]


def mask_units(runs: dict[str, Run]) -> list[Any]:
    """The masks that the store has, of all runs, each once."""
    units_ = {plan.mask.key: plan.mask for run in runs.values() for plan in run.plan.concepts}
    store = runs["judged"].store
    return [unit for key, unit in units_.items() if store.find("mask", key)]


def test_the_neurons_shared_by_artists_are_those_of_the_masks(
    runs: dict[str, Run], answers: list[list[tuple[Any, ...]]]
) -> None:
    artists: dict[tuple[str, int], set[str]] = {}
    weights: dict[tuple[str, int], int] = {}
    for unit in mask_units(runs):
        for layer, pruned in read_mask(runs["judged"].store, unit.key).layers.items():
            for entry in pruned.entries.tolist():
                neuron = (layer, entry % pruned.shape[1])
                artists.setdefault(neuron, set()).add(unit.concept)
                weights[neuron] = weights.get(neuron, 0) + 1
    order = sorted(artists, key=lambda neuron: (-len(artists[neuron]), -weights[neuron], *neuron))
    expected = [(*neuron, len(artists[neuron]), weights[neuron]) for neuron in order[:10]]
    assert expected[0][2] > 1
    assert answers[0] == expected


def test_densities_are_those_of_the_weights_that_a_call_speaks_for(
    runs: dict[str, Run], answers: list[list[tuple[Any, ...]]]
) -> None:
    store = runs["judged"].store
    plain = runs["plain"].plan.concepts[0].mask
    assert {call for _, call, _ in answers[1]} == {0, 1, 2}

    def statistics(key: str) -> Statistics:
        return Statistics.from_arrow(
            parquet_to_table(store.load(store.get("statistics", key), "statistics"))
        )

    # One mask by hand, and so alone: the others have another base.
    layer, pruned = next(iter(read_mask(store, plain.key).layers.items()))
    target, base = (statistics(key).energy()[layer][1] for key in (plain.target, plain.base))
    speaks = [
        target[entry % pruned.shape[1]] > base[entry % pruned.shape[1]]
        for entry in pruned.entries.tolist()
    ]
    share = sum(speaks) / (pruned.shape[0] * pruned.shape[1])
    alone = queries()[1].replace("parquet')", f"parquet' WHERE mask = '{plain.key}')")
    found = {(name, call): density for name, call, density in duckdb.sql(alone).fetchall()}
    assert found[layer, 1] == pytest.approx(share)


def test_the_ledger_of_failures_names_unit_concept_attempts_and_error(
    runs: dict[str, Run], answers: list[list[tuple[Any, ...]]]
) -> None:
    run = runs["judged"].plan.run
    failed = [row for row in read_ledger(runs["judged"].store, run) if row["status"] == "failed"]
    assert len(failed) == 1
    assert answers[2] == [(run, "mask", FAILING, [FAILING], 3, ERROR)]
