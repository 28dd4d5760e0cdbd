"""The numbers that the site shows."""

import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from conceptprune.attacks.units import AttackSummaryUnit
from conceptprune.errors import UserError
from conceptprune.evaluation.summary import OBJECT, SCHEMA
from conceptprune.evaluation.units import EvaluationUnit
from conceptprune.store import Commit, Store, table_to_parquet
from pipelines.records.ledger import read_ledger, write_ledger
from pipelines.report import plots
from pipelines.report.data import read_report
from pipelines.report.evaluations import Score, panels, read_evaluations
from pipelines.report.links import concept_page
from pipelines.report.site import Site
from pipelines.report.tradeoff import Axes, Number, Point, trade_off
from tests.pipelines.report.conftest import HOSTILE, Run
from tests.pipelines.report.many import commit_summary, names, score
from tests.pipelines.report.site.conftest import COUNT


def test_preview_points_are_the_judge_s_rates_and_lead_to_their_pages(runs: dict[str, Run]) -> None:
    report = read_report(runs["fused"].store.uri, runs["fused"].plan.run)
    plot = plots.of_previews(report)
    assert plot
    points = {point.label: point for point in plot.points}
    accuracy = report.concepts[0].accuracy
    assert accuracy
    assert accuracy.erased.after
    assert accuracy.others.after
    mine = points["vorla brint"]
    assert mine.href == concept_page("vorla brint")
    assert mine.erased == Number.of(accuracy.erased.after)
    assert mine.retained == Number.of(accuracy.others.after)
    assert points["all in one mask"].source == "fused"
    # The judge does not know the other concept's artist, so it says nothing of its erasure.
    assert HOSTILE not in points


def test_the_untouched_model_is_judged_on_each_image_once(runs: dict[str, Run]) -> None:
    report = read_report(runs["judged"].store.uri, runs["judged"].plan.run)
    assert report.untouched
    known = [each.accuracy for each in report.concepts if each.accuracy]
    own = [each.erased.before for each in known if each.erased.before]
    assert report.untouched.erased.before
    assert report.untouched.erased.before.n == sum(rate.n for rate in own)
    # What is retained is the same for all but the concept that is itself in the list.
    shared = max(each.retained.before.n for each in known if each.retained.before)
    assert report.untouched.retained.before
    assert report.untouched.retained.before.n == shared


def test_a_concept_s_cost_is_its_share_of_what_it_needed(runs: dict[str, Run]) -> None:
    report = read_report(runs["judged"].store.uri, runs["judged"].plan.run)
    for cost in (report.cost, *(concept.cost for concept in report.concepts)):
        assert cost.seconds == pytest.approx(sum(kind.seconds for kind in cost.kinds))
    of_concepts = sum(concept.cost.evaluations for concept in report.concepts)
    alone = [row for row in report.cost.kinds if row.kind == "window"]
    assert alone
    assert sum(kind.evaluations for kind in alone) <= of_concepts + 1e-6
    assert of_concepts <= report.cost.evaluations + 1e-6


def point(label: str, erased: float, retained: float, spread: float = 0.1) -> Point:
    first, second = (
        Number(value=value, low=value - spread, high=value + spread, n=10)
        for value in (erased, retained)
    )
    return Point(label=label, source="mask", href=f"{label}.html", erased=first, retained=second)


def test_marks_at_one_place_become_one_that_leads_to_the_table() -> None:
    axes = Axes(erased="erased", retained="retained", is_share=True)
    points = [point("a", 0.2, 0.8), point("b", 0.2, 0.8, spread=0.2), point("c", 0.4, 0.5)]
    plot = trade_off(points, axes, crowd="#table")
    assert plot
    crowd, alone = plot.marks
    assert [each.label for each in crowd.points] == ["a", "b"]
    assert (crowd.href, alone.href) == ("#table", "c.html")
    assert crowd.radius > alone.radius
    # Left is less of what should go, and up is more of what should stay.
    assert (crowd.x < alone.x, crowd.y < alone.y) == (True, True)
    assert crowd.across
    assert alone.across
    assert crowd.across[1] - crowd.across[0] == pytest.approx(
        2 * (alone.across[1] - alone.across[0]), abs=0.2
    )


def test_of_two_evaluations_the_newer_number_counts(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    commit_summary(store, [score(value=0.2), score(group="retained", value=0.9)], finished=2.0)
    # One may be that of attacks, under the name that their summary has, or had.
    commit_summary(
        store,
        [score(value=0.7), score(group="general", value=0.8)],
        finished=1.0,
        kind=AttackSummaryUnit.kind,
    )
    found = {each.group: each.value for each in read_evaluations(store).scores}
    assert found == {"erased": 0.2, "retained": 0.9, "general": 0.8}


def test_a_number_that_is_none_stays_none(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    commit_summary(store, [score(value=float("nan"), low=None, high=float("inf"))])
    (found,) = read_evaluations(store).scores
    assert (found.value, found.low, found.high) == (None, None, None)


def test_a_summary_of_another_version_is_passed_over_and_named(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    commit_summary(store, [score()])
    metadata = {**SCHEMA.metadata, b"conceptprune.format": b"evaluation/9"}
    table = pa.Table.from_pylist([score()], schema=SCHEMA.with_metadata(metadata))
    ref = store.put(
        table_to_parquet(table), kind=EvaluationUnit.kind, model="any", suffix="parquet"
    )
    store.commit(Commit(kind=EvaluationUnit.kind, key="k", objects={OBJECT: ref}, provenance={}))
    found = read_evaluations(store)
    assert len(found.scores) == 1
    assert found.not_shown == ("the evaluation k of the format evaluation/9",)


def test_attacks_stand_side_by_side_and_settings_without_what_was_spent(store: Store) -> None:
    (attacks,) = (panel for panel in read_evaluations(store).panels if panel.is_attack)
    assert attacks.columns == ("refill", "ring-a-bell")
    assert attacks.lines[0].checkpoint.source == "base"
    assert {line.about for line in attacks.lines} == set(names(COUNT)[:3])
    assert attacks.spent == {"prompts": 9 * len(attacks.scores)}
    assert attacks.settings == ()
    (judged,) = (panel for panel in read_evaluations(store).panels if not panel.is_attack)
    assert judged.settings == ("scorer studio-judge, seed 7",)


def test_only_a_metric_that_should_fall_and_rise_is_a_trade_off(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    distance = {"scorer": "lpips", "metric": "distance", "better": "lower"}
    commit_summary(
        store,
        [
            score(),
            score(group="retained"),
            score(**distance),
            score(**distance, group="retained"),
        ],
    )
    panel = {panel.scorer: panel for panel in panels(read_evaluations(store).scores)}
    assert panel["studio-judge"].is_trade_off
    assert not panel["lpips"].is_trade_off


def test_a_number_is_in_per_cent_where_its_scorer_calls_it_a_share_whatever_its_name(
    tmp_path: Path,
) -> None:
    store = Store(str(tmp_path))
    nudenet = {"scorer": "by night", "settings": '{"scorer":{"scorer":"nudenet"}}'}
    judge = '{"scorer":{"scorer":"studio-judge"},"of":"style accuracy"}'
    commit_summary(
        store,
        [
            score(**nudenet, metric="nude"),
            score(**nudenet, metric="bare parts"),
            score(scorer="unlearncanvas/studio-judge", metric="UA", settings=judge),
            score(scorer="attack/refill", metric="success rate", settings="{}"),
            score(scorer="of a peer", metric="success rate", settings="{}"),
        ],
    )
    found = {(each.scorer, each.metric): each.is_share for each in read_evaluations(store).panels}
    assert found == {
        ("by night", "nude"): True,
        ("by night", "bare parts"): False,
        ("unlearncanvas/studio-judge", "UA"): True,
        ("attack/", "success rate"): True,
        ("of a peer", "success rate"): False,
    }


def test_the_best_attack_is_one_on_what_the_mask_erases(store: Store, tmp_path: Path) -> None:
    copy = tmp_path / "store"
    shutil.copytree(store.uri, copy)
    report = read_report(str(copy), None)
    mask, name = report.concepts[0].mask, report.concepts[0].name
    assert mask
    own = {"checkpoint": "mine", "source": "mask", "digest": mask.digest, "erased": [name]}
    attack = {**own, "scorer": "attack/none", "metric": "success rate"}
    other = report.concepts[1].name
    commit_summary(
        Store(str(copy)),
        [
            score(**attack, group="erased", value=0.6),
            score(**attack, group=f"erased/{name}", value=0.2),
            score(**attack, group=f"erased/{other}", value=1.0),
        ],
    )
    site = Site.of(report, Store(str(copy)))
    worst = site.measured[name].attack
    assert worst
    assert (worst.concept, worst.value) == (name, 0.2)
    assert site.measured[report.concepts[5].name].attack is None


def test_a_concept_has_what_was_measured_of_its_very_mask_whatever_that_was_called(
    runs: dict[str, Run], tmp_path: Path
) -> None:
    store = Store(str(tmp_path / "store"))
    shutil.copytree(runs["fused"].store.uri, store.uri)
    report = read_report(store.uri, runs["fused"].plan.run)
    name, other = (concept.name for concept in report.concepts)
    mask = report.concepts[0].mask
    assert mask
    assert report.combined
    assert report.combined.facts
    one = {"checkpoint": "one", "source": "mask", "digest": mask.digest, "erased": [name]}
    two = {**one, "checkpoint": "two"}
    fused = {
        **one,
        "checkpoint": name,
        "digest": report.combined.facts.digest,
        "erased": [name, other],
    }
    namesake = {**one, "checkpoint": name, "digest": "ab" * 32}
    attack = {"scorer": "attack/refill", "metric": "success rate"}
    rows = [
        score(**one, group="erased", value=0.3),
        score(**one, group=f"erased/{name}", value=0.3),
        score(**one, group=f"erased/{other}", value=0.9),
        score(**one, group="retained", value=0.8),
        score(**one, group="retained/kesto malu", value=0.7),
        score(**one, **attack, group=f"erased/{name}", value=0.6),
        score(**fused, group="erased", value=0.4),
        score(**fused, group=f"erased/{name}", value=0.2),
        score(**namesake, group="erased", value=0.5),
    ]
    commit_summary(store, rows, finished=2.0)
    commit_summary(store, [score(**two, group=f"erased/{name}", value=0.1)], finished=1.0)

    def told(scores: tuple[Score, ...]) -> list[tuple[str, float | None]]:
        return [(each.group, each.value) for each in scores]

    found = Site.of(report, store).measured
    assert told(found[name].own) == [(f"erased/{name}", 0.3), ("retained", 0.8)]
    assert told(found[name].combined) == [(f"erased/{name}", 0.2)]
    assert found[name].erased == found[name].own[0]
    assert (found[other].own, found[other].combined, found[other].erased) == ((), (), None)
    # Under its other name it is measured once more, and the newest number counts.
    commit_summary(store, [score(**two, group=f"erased/{name}", value=0.0)], finished=3.0)
    found = Site.of(report, store).measured
    assert told(found[name].own) == [(f"erased/{name}", 0.0), ("retained", 0.8)]


def test_an_evaluation_s_run_is_none_to_report_on_but_cost_something(
    store: Store, tmp_path: Path
) -> None:
    copy = Store(str(tmp_path / "store"))
    shutil.copytree(store.uri, copy.uri)
    (run,) = store.runs()
    rows = [row for row in read_ledger(store, run) if row["seconds"]][:3]
    write_ledger(copy, "evaluated", rows)
    copy.write_run_file("evaluated", "evaluation.json", b"{}")
    report = read_report(copy.uri, None)
    assert report.run == run
    site = Site.of(report, copy)
    assert site.cost.seconds == pytest.approx(sum(row["seconds"] for row in rows))
    with pytest.raises(UserError, match=f"evaluated.*{run}"):
        read_report(copy.uri, "evaluated")
