"""The site of a run: its numbers, its files, and what a reader can do with it in a real browser."""

import re
import shutil
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pytest

from conceptprune.attacks.units import AttackSummaryUnit
from conceptprune.errors import StoreError, UserError
from conceptprune.evaluation.summary import OBJECT, SCHEMA
from conceptprune.evaluation.units import EvaluationUnit
from conceptprune.store import Commit, Store, table_to_parquet
from pipelines.cli import main
from pipelines.records.ledger import read_ledger, write_ledger
from pipelines.report import plots, write_report
from pipelines.report.data import read_report
from pipelines.report.evaluations import Score, panels, read_evaluations
from pipelines.report.links import Links, concept_page, page_name
from pipelines.report.site import Site
from pipelines.report.tradeoff import Axes, Number, Point, trade_off
from pipelines.report.values import ReportData
from tests.pipelines.report.conftest import ERROR, FAILING, HOSTILE, Run
from tests.pipelines.report.many import commit_summary, names, score, store_of_many
from tests.pipelines.report.test_report import CONTRASTS, WIDTHS
from tests.support.browser import Browser

COUNT = 40
PEER = "peer <img src=x onerror=alert(1)>"
PAGES = ("index.html", "evaluation.html", "concept", "checkpoint")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A run of many concepts, and an evaluation and attacks of a few of its masks."""
    store, _ = store_of_many(tmp_path_factory.mktemp("many"), COUNT)
    report = read_report(store.uri, None)
    checkpoints: list[dict[str, Any]] = [{}]
    for concept in report.concepts[:3]:
        assert concept.mask
        mask = {"checkpoint": f"mask {concept.name}", "source": "mask", "erased": [concept.name]}
        checkpoints.append({**mask, "digest": concept.mask.digest})
    erased = [concept.name for concept in report.concepts[:2]]
    checkpoints.append(
        {"checkpoint": PEER, "source": "folder", "digest": "ab" * 32, "erased": erased}
    )
    rows = []
    for number, checkpoint in enumerate(checkpoints):
        value = 0.9 if not number else 0.1 * number
        for group in ("erased", "retained"):
            rows.append(score(**checkpoint, group=group, value=value, low=0.0, high=1.0))
        for name in checkpoint.get("erased", erased):
            rows.append(score(**checkpoint, group=f"erased/{name}", value=value))
            attack = {"metric": "success rate", "settings": '{"spent":{"prompts":9}}'}
            for scorer in ("attack/refill", "attack/ring-a-bell"):
                rows.append(
                    score(
                        **checkpoint, **attack, group=f"erased/{name}", scorer=scorer, value=value
                    )
                )
    commit_summary(store, rows)
    return store


@pytest.fixture(scope="module")
def site(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "site"
    write_report(store.uri, out=out, run=None)
    return out


@pytest.fixture(scope="module")
def hostile(runs: dict[str, Run], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of a run with a failed concept and one whose name is HTML."""
    out = tmp_path_factory.mktemp("hostile") / "site"
    write_report(runs["judged"].store.uri, out=out, run=runs["judged"].plan.run)
    return out


@pytest.fixture(scope="module")
def alone(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of a store in which nothing was erased, only evaluated and attacked."""
    folder = tmp_path_factory.mktemp("alone")
    for part in ("commits/evaluation", "objects/evaluation"):
        shutil.copytree(Path(store.uri) / part, folder / "store" / part)
    write_report(str(folder / "store"), out=folder / "site", run=None)
    return folder / "site"


def page_of(site: Path, kind: str) -> Path:
    if kind.endswith(".html"):
        return site / kind
    if kind == "concept":
        return site / concept_page(names(COUNT)[0])
    return next((site / "checkpoints").glob("peer-*.html"))


# What the numbers are


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


# The files


class Found(HTMLParser):
    """Everything of a page that could load, run or lead somewhere."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.ids: set[str] = set()
        self.attributes: set[str] = set()
        self.images: list[Mapping[str, str | None]] = []
        self.tags: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        self.attributes |= given.keys()
        self.targets += [given[name] or "" for name in ("href", "src") if name in given]
        if given.get("id"):
            self.ids.add(given["id"] or "")
        if tag == "img":
            self.images.append(given)


def all_pages(site: Path) -> Iterator[Path]:
    yield from sorted(site.rglob("*.html"))


def test_every_link_leads_to_a_file_of_the_site(site: Path, hostile: Path, alone: Path) -> None:
    for root in (site, hostile, alone):
        found = {page: Found(page) for page in all_pages(root)}
        reached = set()
        for page, content in found.items():
            for target in content.targets:
                if target == "data:,":
                    continue
                path, _, fragment = target.partition("#")
                assert ":" not in path, target
                aim = (page.parent / unquote(path)).resolve() if path else page
                assert aim.is_file(), f"{page}: {target}"
                assert not fragment or fragment in found[aim].ids, f"{page}: {target}"
                reached.add(aim)
        # And every file is led to.
        assert reached | {root / "index.html"} == {
            each for each in root.rglob("*") if each.is_file()
        }


def test_pages_load_images_when_seen_and_run_nothing_inline(site: Path, hostile: Path) -> None:
    for page in (*all_pages(site), *all_pages(hostile)):
        found = Found(page)
        assert all(image["loading"] == "lazy" and image["alt"] for image in found.images)
        assert all(image["width"] and image["height"] for image in found.images)
        assert not {each for each in found.attributes if each.startswith("on")}
        assert "style" not in found.attributes
        assert (found.tags.count("script"), found.tags.count("style")) == (1, 1)
        policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page.read_text())
        assert policy
        assert "unsafe" not in policy[1]
        assert "http" not in policy[1]


def test_the_overview_stays_small_however_many_concepts(site: Path) -> None:
    size = (site / "index.html").stat().st_size
    assert size < 60_000 + 2_500 * COUNT
    assert len(Found(site / "index.html").images) == 2 * COUNT


def test_names_of_files_are_harmless_and_tell_concepts_apart(hostile: Path) -> None:
    for path in hostile.rglob("*"):
        assert re.fullmatch(r"[a-z0-9-]+(\.(html|png|jpeg))?", path.name)
    odd = ["../../etc/passwd", "CON", "a/b", "A b", "a b", "мона", "", "x" * 300, ".."]
    pages = [concept_page(name) for name in odd]
    assert len(set(pages)) == len(odd)
    assert all(re.fullmatch(r"concepts/[a-z0-9-]{10,51}\.html", page) for page in pages)
    assert page_name("Élan vital", "0123456789ab") == "elan-vital-0123456789"


def test_an_evaluated_mask_of_the_run_has_its_concept_s_page(store: Store) -> None:
    report: ReportData = read_report(store.uri, None)
    links = Links.of(report)
    found = {each.label: links.checkpoint(each) for each in read_evaluations(store).checkpoints}
    first = names(COUNT)[0]
    assert found[f"mask {first}"] == concept_page(first)
    assert found[PEER].startswith("checkpoints/peer-")


def test_the_same_store_gives_the_same_site(store: Store, site: Path, tmp_path: Path) -> None:
    write_report(store.uri, out=tmp_path / "again", run=None)
    first, second = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (site, tmp_path / "again")
    )
    assert first == second


def test_a_site_is_replaced_as_a_whole_or_not_at_all(runs: dict[str, Run], tmp_path: Path) -> None:
    run = runs["plain"]
    out = tmp_path / "site"
    write_report(run.store.uri, out=out, run=run.plan.run)
    (out / "concepts" / "stale.html").write_text("of an earlier run")
    write_report(run.store.uri, out=out, run=run.plan.run)
    assert not (out / "concepts" / "stale.html").exists()
    lost = tmp_path / "lost"
    shutil.copytree(run.store.uri, lost)
    shutil.rmtree(lost / "objects" / "mask")
    with pytest.raises(StoreError):
        write_report(str(lost), out=out, run=run.plan.run)
    assert (out / "index.html").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def report_command(uri: str, out: Path) -> int:
    """The exit code of `conceptprune report`."""
    with pytest.raises(SystemExit) as ended:
        main(["report", uri, "--out", str(out)])
    return int(ended.value.code or 0)


def test_the_command_makes_a_site_of_a_folder_and_a_page_of_a_name_in_html(
    runs: dict[str, Run], tmp_path: Path
) -> None:
    uri = runs["plain"].store.uri
    assert report_command(uri, tmp_path / "deep" / "site") == 0
    assert (tmp_path / "deep" / "site" / "index.html").is_file()
    assert report_command(uri, tmp_path / "one.html") == 0
    assert (tmp_path / "one.html").is_file()


def test_a_store_of_evaluations_alone_has_a_site_of_them_and_nothing_else(
    alone: Path, browser: Browser, tmp_path: Path
) -> None:
    assert {path.relative_to(alone).parts[0] for path in all_pages(alone)} == {
        "index.html",
        "checkpoints",
    }
    browser.open(alone / "index.html", width=1200)
    assert browser.value("document.querySelector('h1').textContent") == "Evaluations and attacks"
    assert browser.value("document.querySelectorAll('table.panel').length") == 2
    assert browser.messages == []
    # A run that is asked for must be there, and a single page is of a run.
    uri = str(alone.parent / "store")
    with pytest.raises(UserError, match=r"no run is recorded here.*--out FOLDER"):
        write_report(uri, out=tmp_path / "one.html", run=None)
    with pytest.raises(UserError, match="no run is recorded here"):
        write_report(uri, out=tmp_path / "other", run="0123")


def test_a_folder_with_other_files_is_left_alone(
    runs: dict[str, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = runs["plain"].store.uri
    (tmp_path / "thesis.txt").write_text("years of work")
    assert report_command(uri, tmp_path) == 2
    assert "holds other files; give a new folder" in capsys.readouterr().err
    assert report_command(uri, tmp_path / "thesis.txt") == 2
    assert "is a file" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


# In the browser


def column(browser: Browser, title: str) -> list[str]:
    """A column's sort values, in the order of the rows that are seen."""
    found: list[str] = browser.value(
        """(title => {
          const table = document.querySelector('table.concepts');
          const headers = [...table.tHead.rows[0].cells];
          const at = headers.findIndex(cell => cell.textContent.startsWith(title));
          return [...table.tBodies[0].rows].filter(row => !row.hidden)
            .map(row => row.cells[at].dataset.v ?? row.cells[at].textContent.trim());
        })"""
        f"({title!r})"
    )
    return found


def press_header(browser: Browser, title: str) -> str:
    """Sort with the keyboard; what the header says of the order then."""
    browser.value(
        f"""(window.header = [...document.querySelectorAll('table.concepts th')]
              .find(c => c.textContent.startsWith('{title}'))).querySelector('button').focus()"""
    )
    browser.press("Enter")
    order: str = browser.value("header.getAttribute('aria-sort')")
    return order


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", PAGES)
def test_pages_fit_are_quiet_and_ask_the_network_for_nothing(
    browser: Browser, site: Path, kind: str, width: int
) -> None:
    browser.open(page_of(site, kind), width=width)
    assert browser.value("document.scrollingElement.scrollWidth") <= width
    assert browser.value("document.documentElement.classList.contains('js')")
    assert browser.messages == []


def test_what_is_untrusted_is_shown_as_text(browser: Browser, site: Path, hostile: Path) -> None:
    browser.open(hostile / concept_page(HOSTILE), width=1200)
    assert browser.value("document.querySelector('h1').textContent") == HOSTILE
    assert browser.value("document.title").startswith(HOSTILE)
    browser.open(page_of(site, "checkpoint"), width=1200)
    assert browser.value("document.querySelector('h1').textContent") == PEER
    assert browser.value("document.images.length") == 0
    assert browser.messages == []


def test_headers_sort_by_keyboard_and_say_so(browser: Browser, site: Path) -> None:
    browser.open(site / "index.html", width=1200)
    plan = column(browser, "Pruned")
    assert press_header(browser, "Pruned") == "ascending"
    assert column(browser, "Pruned") == sorted(plan, key=float)
    assert press_header(browser, "Pruned") == "descending"
    assert column(browser, "Pruned") == sorted(plan, key=float, reverse=True)
    assert press_header(browser, "Concept") == "ascending"
    assert column(browser, "Concept") == sorted(names(COUNT))
    others = browser.value(
        "[...document.querySelectorAll('.concepts [aria-sort]')].map(e => e.ariaSort)"
    )
    assert sorted(set(others)) == ["ascending", "none"]
    assert "by Concept, ascending" in browser.value(
        "document.querySelector('[role=status]').textContent"
    )
    assert browser.messages == []


@pytest.mark.parametrize("presses", [1, 2])
def test_what_has_no_number_comes_last_either_way(
    browser: Browser, site: Path, presses: int
) -> None:
    browser.open(site / "index.html", width=1200)
    for _ in range(presses):
        press_header(browser, "Best attack")
    values = column(browser, "Best attack")
    assert all(values[:3])
    assert not any(values[3:])
    assert values[:3] == sorted(values[:3], key=float, reverse=presses == 2)


def test_a_concept_s_page_and_its_row_say_what_was_measured_of_its_mask(
    browser: Browser, site: Path
) -> None:
    browser.open(site / "index.html", width=1200)
    evaluated = column(browser, "Evaluated")
    assert [float(value) for value in evaluated[:3]] == pytest.approx([0.1, 0.2, 0.3])
    assert not any(evaluated[3:])
    browser.open(page_of(site, "concept"), width=1200)
    rows = browser.value(
        """[...document.querySelectorAll('[aria-labelledby=measured-title] tbody tr')]
             .map(row => [...row.cells].map(cell => cell.innerText))"""
    )
    metric, value = "style accuracy\nstudio-judge, {} is better", "10.0 %\n0.0–100.0 %"
    assert rows[:2] == [
        ["erased", metric.format("lower"), "10.0 %\n40.0–60.0 %", "96"],
        ["retained", metric.format("higher"), value, "96"],
    ]
    # Whatever else there is to compare with is folded away.
    assert not browser.value("document.querySelector('details table.panel').checkVisibility()")
    browser.open(site / concept_page(names(COUNT)[9]), width=1200)
    assert browser.value("document.querySelector('#measured-title')") is None


def test_the_filter_counts_and_its_address_brings_the_view_back(
    browser: Browser, site: Path
) -> None:
    browser.open(site / "index.html", width=1200)
    browser.value("document.querySelector('[name=q]').focus()")
    browser.type("VORLA")
    mine = [name for name in names(COUNT) if "vorla" in name]
    assert column(browser, "Concept") == mine
    said = browser.value("document.querySelector('[role=status]').textContent")
    assert said == f"{len(mine)} of {COUNT} concepts"
    press_header(browser, "Worker time")
    press_header(browser, "Worker time")
    shown = column(browser, "Concept")
    fragment = browser.value("location.hash").removeprefix("#")
    browser.open(site / "index.html", width=1200, fragment=fragment)
    assert column(browser, "Concept") == shown
    assert browser.value("document.querySelector('[name=q]').value") == "VORLA"
    browser.open(site / "index.html", width=1200, fragment="kind=object&sort=concept")
    objects = [name for index, name in enumerate(names(COUNT)) if index % 3 == 2]
    assert column(browser, "Concept") == sorted(objects)
    browser.value("document.querySelector('[type=reset]').click()")
    wait = "new Promise(done => setTimeout(done, 50))"
    browser.call("Runtime.evaluate", expression=wait, awaitPromise=True)
    assert column(browser, "Concept") == names(COUNT)
    assert browser.messages == []


def test_a_filter_by_status_finds_what_failed(browser: Browser, hostile: Path) -> None:
    browser.open(hostile / "index.html", width=1200, fragment="status=failed")
    assert column(browser, "Concept") == [FAILING]


def test_a_view_that_nobody_has_shows_everything(browser: Browser, site: Path) -> None:
    browser.open(site / "index.html", width=1200, fragment="kind=no-such&sort=__proto__&status=%00")
    assert column(browser, "Concept") == names(COUNT)
    assert browser.messages == []


CUTS = """[...document.querySelectorAll('.pair')].map(pair =>
  getComputedStyle(pair.querySelector('.before')).clipPath)"""


def test_sliders_uncover_what_is_behind_by_keyboard(browser: Browser, site: Path) -> None:
    browser.open(page_of(site, "concept"), width=1200)
    pairs = browser.value(
        """[...document.querySelectorAll('.pair')].map(pair => {
             const [a, b] = [...pair.querySelectorAll('img')];
             const [x, y] = [a, b].map(i => i.getBoundingClientRect());
             return {same: x.left === y.left && x.top === y.top && x.width === y.width,
                     label: pair.querySelector('input[type=range]').ariaLabel, alt: a.alt};
           })"""
    )
    assert len(pairs) > 4
    for pair in pairs:
        assert pair["same"]
        prompt = pair["label"].removeprefix("Before and after: ")
        assert pair["alt"].startswith(f"before pruning: {prompt}")
    assert set(browser.value(CUTS)) == {"inset(0px 50% 0px 0px)"}
    browser.value("document.querySelector('.pair input').focus()")
    browser.press("ArrowRight")
    assert browser.value(CUTS)[:2] == ["inset(0px 49% 0px 0px)", "inset(0px 50% 0px 0px)"]
    said = browser.value("document.activeElement.getAttribute('aria-valuetext')")
    assert said == "51 % before, 49 % after"
    browser.value("document.querySelector('.every input').focus()")
    browser.press("Home")
    assert set(browser.value(CUTS)) == {"inset(0px 100% 0px 0px)"}
    assert browser.messages == []


def test_a_rate_that_should_be_low_is_called_what_is_still_recognised(hostile: Path) -> None:
    page = (hostile / "index.html").read_text(encoding="utf-8")
    table = page.partition('<table class="concepts"')[2].partition("</thead>")[0]
    headings = re.findall(r"<th[^>]*>([^<]+),\s%", table)
    assert headings[:2] == ["Still recognised", "Others recognised"]
    assert not any(heading.startswith("Erased") for heading in headings)


def test_a_plot_s_marks_are_links_that_the_keyboard_reaches(browser: Browser, site: Path) -> None:
    browser.open(site / "index.html", width=1200)
    links = browser.value(
        """[...document.querySelectorAll('.scatter a')]
             .map(a => [a.getAttribute('href'), a.ariaLabel])"""
    )
    first = names(COUNT)[0]
    (told,) = (label for page, label in links if page == concept_page(first))
    # What its numbers are of: a low one on what should go is a success.
    assert re.fullmatch(
        f"mask {re.escape(first)}: .+ on what should go, % 10.0; .+ on what should stay, % 10.0",
        told,
    )
    browser.value("document.querySelector('.scatter a').focus()")
    assert browser.value("document.activeElement.tagName") == "a"
    in_first = "document.querySelector('.tradeoff')"
    rows = browser.value(f"{in_first}.querySelectorAll('tbody tr').length")
    assert rows == browser.value(f"{in_first}.querySelectorAll('.scatter a').length")


def test_evaluating_some_masks_leaves_the_plot_of_all_where_it_was(
    browser: Browser, site: Path
) -> None:
    browser.open(site / "index.html", width=1200)
    assert browser.value("document.querySelectorAll('.tradeoff').length") > 1
    marks = browser.value("document.querySelectorAll('#previews-table tbody tr').length")
    judged = browser.value(
        "[...document.querySelectorAll('table.concepts tbody tr')]"
        ".filter(row => !row.textContent.includes('not checked')).length"
    )
    assert marks >= judged > 0


def test_the_overview_says_why_a_concept_failed_at_every_width(
    browser: Browser, hostile: Path
) -> None:
    for width in (390, 1200):
        browser.open(hostile / "index.html", width=width)
        told = browser.value(
            "[...document.querySelectorAll('table.concepts th .why')]"
            ".filter(each => each.checkVisibility()).map(each => each.textContent)"
        )
        assert told == [ERROR]
        assert browser.value("document.querySelector('.verdict').checkVisibility()")


def test_a_crowd_s_link_opens_the_table_of_the_plot(browser: Browser, hostile: Path) -> None:
    browser.open(hostile / "index.html", width=1200, fragment="previews-table")
    assert browser.value("document.querySelector('#previews-table').open")


def test_without_script_everything_can_be_read(browser: Browser, site: Path) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(site / "index.html", width=1200)
        assert browser.value("document.querySelectorAll('th button').length") == 0
        assert not browser.value("document.querySelector('form').checkVisibility()")
        assert len(column(browser, "Concept")) == COUNT
        browser.open(page_of(site, "concept"), width=1200)
        beside = browser.value(
            """[...document.querySelectorAll('.pair')].every(pair => {
                 const [a, b] = [...pair.querySelectorAll('img')]
                   .map(image => image.getBoundingClientRect());
                 return a.width > 0 && a.right <= b.left;
               })"""
        )
        assert beside
        assert browser.value("document.querySelectorAll('input').length") == 1
        assert not browser.value("document.querySelector('input').checkVisibility()")
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("kind", PAGES)
def test_text_has_contrast_on_every_page(
    browser: Browser, site: Path, kind: str, dark: bool
) -> None:
    browser.open(page_of(site, kind), width=1200, dark=dark)
    assert browser.value(CONTRASTS) == []


@pytest.mark.parametrize("kind", PAGES)
def test_pages_are_in_order_for_a_screen_reader(browser: Browser, site: Path, kind: str) -> None:
    browser.open(page_of(site, kind), width=390)
    unnamed = """[...document.querySelectorAll('.scroll')].filter(
        e => e.tabIndex !== 0 || !(e.ariaLabel || e.getAttribute('aria-labelledby'))).length"""
    assert browser.value(unnamed) == 0
    levels = browser.value("[...document.querySelectorAll('h1,h2,h3,h4')].map(e => +e.tagName[1])")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    dangling = """[...document.querySelectorAll('[aria-labelledby]')].filter(
        e => !document.getElementById(e.getAttribute('aria-labelledby'))).length"""
    assert browser.value(dangling) == 0
    browser.press("Tab")
    assert browser.value("document.activeElement.textContent") == "Skip to the content"
