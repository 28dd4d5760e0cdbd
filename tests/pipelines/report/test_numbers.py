"""The report's numbers are those of the store."""

import html
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conceptprune.collection.statistics import Statistics
from conceptprune.evaluation.units import PreviewScoresUnit
from conceptprune.masks.mask import PruningMask
from conceptprune.store import Store, parquet_to_table
from conceptprune.studio.names import ARTISTS
from conceptprune.units.results import read_mask
from pipelines.records.ledger import read_ledger, write_ledger
from pipelines.records.run_record import RunRecord
from pipelines.report.accuracy import Rate
from pipelines.report.data import read_report
from pipelines.report.render import render
from pipelines.report.values import ReportData
from pipelines.report.where import short_names
from pipelines.scheduling.loop import needs
from tests.pipelines.report.conftest import ERROR, FAILING, HOSTILE, Run
from tests.pipelines.report.shown import concept_report


def preview_rows(run: Run, keys: list[str]) -> list[dict[str, Any]]:
    """The images of previews, with what the scorer's tables say was seen in each."""
    rows = {}
    for key in keys:
        ref = run.store.get("preview", key).objects["preview"]
        images = parquet_to_table(run.store.read(ref)).to_pylist()
        rows |= {(row["prompt"], row["seed"]): row for row in images}
    for unit in run.plan.of(PreviewScoresUnit).values():
        if unit.preview in keys:
            ref = run.store.get(unit.kind, unit.key).objects["scores"]
            for row in parquet_to_table(run.store.read(ref)).to_pylist():
                column = "seen_look" if row["metric"] == "style accuracy" else "seen_thing"
                rows[row["prompt"], row["seed"]][column] = row["seen"]
    return list(rows.values())


@pytest.mark.parametrize(
    ("label", "prompts", "asks", "right"),
    [
        (
            "Erased artist recognised",
            "own prompts",
            lambda row: "vorla brint" in row["prompt"],
            lambda row: row["seen_look"] == "halftone",
        ),
        (
            "Other artists recognised",
            "retained prompts",
            lambda row: "kesto malu" in row["prompt"],
            lambda row: row["seen_look"] == "mosaic",
        ),
        (
            "Thing recognised",
            "own prompts",
            lambda row: "vorla brint" in row["prompt"],
            lambda row: row["seen_thing"] in row["prompt"].split(),
        ),
        (
            "Thing recognised",
            "retained prompts",
            lambda row: "kesto malu" in row["prompt"],
            lambda row: row["seen_thing"] in row["prompt"].split(),
        ),
        (
            "Thing recognised",
            "photo prompts",
            lambda row: row["prompt"].startswith("a photo of"),
            lambda row: row["seen_thing"] in row["prompt"].split(),
        ),
        (
            "Photos still photos",
            "photo prompts",
            lambda row: row["prompt"].startswith("a photo of"),
            lambda row: row["seen_look"] == "photo",
        ),
    ],
)
def test_accuracies_are_those_of_the_stored_images(
    runs: dict[str, Run],
    label: str,
    prompts: str,
    asks: Callable[[dict[str, Any]], bool],
    right: Callable[[dict[str, Any]], bool],
) -> None:
    run = runs["judged"]
    plan = run.plan.concepts[0]
    assert plan.preview_after
    before = preview_rows(run, [unit.key for unit in plan.previews_before])
    after = preview_rows(run, [plan.preview_after.key])
    accuracy = concept_report(run, "vorla brint").accuracy
    assert accuracy
    measure = next(
        measure
        for measure in accuracy.detail
        if (measure.question.label, measure.question.prompts) == (label, prompts)
    )
    for rate, rows in ((measure.before, before), (measure.after, after)):
        asked = [row for row in rows if asks(row)]
        assert rate == Rate(hits=sum(map(right, asked)), n=len(asked))


def test_the_judge_is_not_asked_about_an_artist_it_does_not_know(runs: dict[str, Run]) -> None:
    accuracy = concept_report(runs["judged"], HOSTILE).accuracy
    assert accuracy
    assert accuracy.erased.after is None
    assert accuracy.others.after


def test_heat_map_counts_the_pruned_weights_that_a_call_speaks_for(runs: dict[str, Run]) -> None:
    run = runs["judged"]
    plan = run.plan.concepts[0]

    def statistics(key: str) -> Statistics:
        ref = run.store.get("statistics", key).objects["statistics"]
        return Statistics.from_arrow(parquet_to_table(run.store.read(ref)))

    mask = read_mask(run.store, plan.mask.key)
    target = statistics(plan.mask.target)
    sides = [statistics(key) for key in (plan.mask.base, *plan.mask.retained)]
    where = concept_report(run, "vorla brint").where
    assert where
    assert where.timesteps == target.timesteps
    for row in where.rows:
        pruned = np.zeros(mask.layers[row.name].shape, bool)
        pruned.flat[mask.layers[row.name].entries] = True
        assert row.pruned == pytest.approx(pruned.mean())
        for call, share in enumerate(row.by_call):
            energy = target.layers[row.name].sum_sq[call] / target.num_prompts
            others = [side.layers[row.name].sum_sq[call] / side.num_prompts for side in sides]
            assert share == pytest.approx((pruned & (energy > np.mean(others, 0))).mean())
    assert any(max(row.by_call) > 0 for row in where.rows)


def test_layers_have_short_names_unless_these_would_be_the_same() -> None:
    end = "transformer_blocks.0.ff.net.2"
    names = [f"down_blocks.0.attentions.1.{end}", f"mid_block.attentions.0.{end}"]
    assert list(short_names(names).values()) == ["down 0.1", "mid 0"]
    alike = ["a.0.x.ff", "a.0.y.ff"]
    assert list(short_names(alike).values()) == alike


def test_cost_and_masks_are_those_of_the_run(runs: dict[str, Run]) -> None:
    run = runs["judged"]
    report = read_report(run.store.uri, run.plan.run)
    done = [unit for unit in run.plan.units() if run.store.find(unit.kind, unit.key)]
    assert report.cost.evaluations == sum(unit.evaluations for unit in done)
    mask: PruningMask = read_mask(run.store, run.plan.concepts[0].mask.key)
    facts = report.concepts[0].mask
    assert facts
    assert (facts.entries, facts.digest) == (mask.num_entries, mask.digest)
    assert facts.share_of_site == pytest.approx(mask.density)
    record = RunRecord.read(run.store, run.plan.run)
    assert facts.share_of_model == mask.num_entries / record.denoiser_weights
    # Shared work counts once over all concepts together.
    of_concepts = sum(concept.cost.seconds for concept in report.concepts)
    assert of_concepts <= report.cost.seconds + 1e-6


def test_a_failed_concept_keeps_what_it_has_and_says_why(runs: dict[str, Run]) -> None:
    concept = concept_report(runs["judged"], FAILING)
    assert concept.status == "failed"
    assert [failure.error for failure in concept.failures] == [ERROR]
    assert concept.mask is None
    assert concept.strips
    assert all(column.before and not column.after for column in concept.strips[0].columns)


def test_what_a_failure_blocks_is_told_with_the_reason(runs: dict[str, Run]) -> None:
    run = runs["judged"]
    report = read_report(run.store.uri, run.plan.run)
    (failing,) = (concept for concept in report.concepts if concept.name == FAILING)
    (mask,) = (each.mask for each in run.plan.concepts if each.concept.name == FAILING)
    blocked = [unit for unit in run.plan.units() if ("mask", mask.key) in unit.needs]
    assert blocked
    told = (*failing.blocked, *report.blocked)
    assert all(line.endswith(f": {needs(mask)}") for line in told)
    number = sum(int(part) for line in told for part in re.findall(r"(\d+) [a-z-]+ units?", line))
    assert number >= len(blocked)
    page = html.unescape(render(report))
    for line in told:
        assert f"Blocked</strong>: {line}" in page


def begun(run: Run, store: Store, *, failed: str = "") -> ReportData:
    """The report of the run if nothing were done yet but the unit `failed`, which failed."""
    RunRecord.read(run.store, run.plan.run).write(store)
    nothing: dict[str, Any] = {"status": "pending", "error": None, "seconds": None}
    nothing |= {"finished": None, "objects": [], "bytes": 0, "entries": None, "site_weights": None}
    rows = [row | nothing for row in read_ledger(run.store, run.plan.run)]
    for row in rows:
        if row["key"] == failed:
            row |= {"status": "failed", "error": ERROR, "attempts": 2}
    write_ledger(store, run.plan.run, rows)
    return read_report(store.uri, None)


def test_a_run_with_nothing_done_yet_has_a_page(runs: dict[str, Run], tmp_path: Path) -> None:
    report = begun(runs["judged"], Store(str(tmp_path)))
    assert [concept.status for concept in report.concepts] == ["unfinished"] * 3
    assert report.cost.evaluations == 0
    page = render(report)
    assert page.count("Unfinished: the job stopped") == 3
    assert "No image has been judged yet" in page


def test_a_failed_fusion_is_no_concept_s_failure(runs: dict[str, Run], tmp_path: Path) -> None:
    fused = runs["judged"].plan.combined
    assert fused
    report = begun(runs["judged"], Store(str(tmp_path)), failed=fused.key)
    assert [failure.error for failure in report.failures] == [ERROR]
    assert not any(concept.failures for concept in report.concepts)
    assert "Failed</strong> after 2 attempts" in render(report)


def test_the_fused_mask_is_judged_on_all_concepts_prompts(runs: dict[str, Run]) -> None:
    run = runs["fused"]
    units = run.plan.combined_previews
    assert units
    rows = preview_rows(run, [unit.key for unit in units])
    combined = read_report(run.store.uri, run.plan.run).combined
    assert combined
    accuracy = combined.accuracy
    assert accuracy
    assert accuracy.erased.after
    erased = [plan.concept.name for plan in run.plan.concepts]
    own = [row for row in rows if any(name in row["prompt"] for name in erased)]
    looks = {artist.name: artist.look for artist in ARTISTS}
    known = [(row, look) for row in own for name, look in looks.items() if name in row["prompt"]]
    hits = sum(row["seen_look"] == look for row, look in known)
    assert known
    assert (accuracy.erased.after.hits, accuracy.erased.after.n) == (hits, len(known))
