"""The page of a report: of the right run, nothing else written, and it holds in a real browser."""

from itertools import pairwise
from pathlib import Path

import pytest

from conceptprune.errors import UserError
from conceptprune.store import Store
from pipelines.records.run_record import RunRecord
from pipelines.report import write_report
from pipelines.report.data import read_report
from tests.pipelines.report.conftest import ERROR, FAILING, HOSTILE, Run
from tests.pipelines.report.shown import CONTRASTS, WIDTHS, concept_report
from tests.support.browser import Browser


@pytest.fixture(scope="module")
def pages(runs: dict[str, Run], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    for name, run in runs.items():
        write_report(run.store.uri, out=folder / f"{name}.html", run=run.plan.run)
    return {name: folder / f"{name}.html" for name in runs}


# Which run, and what is refused


def test_the_newest_run_is_taken_unless_one_is_named(runs: dict[str, Run]) -> None:
    store = runs["plain"].store.uri
    assert read_report(store, None).run == runs["plain"].plan.run
    assert read_report(store, runs["judged"].plan.run).run == runs["judged"].plan.run


def test_no_store_no_run_no_ledger_are_said_plainly(runs: dict[str, Run], tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    with pytest.raises(UserError, match="no run is recorded here"):
        write_report(str(tmp_path / "nothing"), out=out, run=None)
    with pytest.raises(UserError, match=f"no-such-run.*{runs['plain'].plan.run}"):
        write_report(runs["plain"].store.uri, out=out, run="no-such-run")
    started = Store(str(tmp_path / "started"))
    RunRecord.read(runs["plain"].store, runs["plain"].plan.run).write(started)
    with pytest.raises(UserError, match="no ledger yet"):
        write_report(started.uri, out=out, run=None)
    with pytest.raises(UserError, match="--out"):
        write_report(runs["plain"].store.uri, out=tmp_path / "no" / "folder.html", run=None)
    assert not out.exists()


def test_writing_a_report_changes_nothing_in_the_store(
    runs: dict[str, Run], pages: dict[str, Path], tmp_path: Path
) -> None:
    run = runs["judged"]
    again = tmp_path / "again.html"
    before = sorted(Path(run.store.uri).rglob("*"))
    write_report(run.store.uri, out=again, run=run.plan.run)
    assert sorted(Path(run.store.uri).rglob("*")) == before
    assert again.read_bytes() == pages["judged"].read_bytes()


# The page in a browser


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["judged", "plain"])
def test_page_fits_is_quiet_and_asks_the_network_for_nothing(
    browser: Browser, pages: dict[str, Path], name: str, width: int
) -> None:
    browser.open(pages[name], width=width)
    assert browser.value("document.scrollingElement.scrollWidth") <= width
    assert browser.value("innerWidth") == width
    assert browser.messages == []
    assert browser.value("[...document.images].every(i => i.complete && i.naturalWidth > 0)")


def test_every_concept_is_there_and_names_are_text(
    browser: Browser, pages: dict[str, Path]
) -> None:
    browser.open(pages["judged"], width=1200)
    titles = browser.value("[...document.querySelectorAll('.concept h2')].map(e => e.textContent)")
    assert titles[:3] == ["vorla brint", HOSTILE, FAILING]
    assert browser.value("document.scripts.length") == 0
    assert browser.value("document.title").startswith("Erasing 3 concepts from")
    assert ERROR in browser.value("document.body.textContent")
    assert "2 done, 1 not checked, 1 failed" in browser.value(
        "document.querySelector('.facts').textContent"
    )


def test_strips_show_each_prompt_before_above_after(
    browser: Browser, pages: dict[str, Path]
) -> None:
    browser.open(pages["judged"], width=1200)
    pairs = browser.value(
        """[...document.querySelectorAll('#concept-1 .strip figure')].map(f => {
             const [before, after] = f.querySelectorAll('img');
             const [a, b] = [before, after].map(i => i.getBoundingClientRect());
             return {alts: [before.alt, after.alt], caption: f.textContent,
                     below: a.bottom <= b.top && a.left === b.left, width: a.width,
                     crisp: getComputedStyle(before).imageRendering};
           })"""
    )
    assert len(pairs) == 6 + 3 + 4
    for pair in pairs:
        assert pair["below"]
        assert (pair["width"], pair["crisp"]) == (128, "pixelated")
        prompt = pair["alts"][0].removeprefix("before pruning: ").split(", seed")[0]
        assert pair["alts"][1].startswith(f"after pruning: {prompt}, seed")
        assert prompt in pair["caption"]


def test_what_was_not_asked_for_is_absent_with_the_way_to_ask(
    browser: Browser, pages: dict[str, Path]
) -> None:
    browser.open(pages["plain"], width=390)
    assert browser.value("document.images.length") == 0
    assert browser.value("document.querySelectorAll('.accuracy').length") == 0
    text = browser.value("document.body.textContent")
    assert "preview: {}" in text
    assert "scorer: studio-judge" in text


def test_page_shows_the_rates_with_their_intervals(
    runs: dict[str, Run], browser: Browser, pages: dict[str, Path]
) -> None:
    browser.open(pages["judged"], width=390)
    shown = browser.value(
        "[...document.querySelectorAll('#concept-1 .accuracy tbody td')].map(e => e.innerText)"
    )
    accuracy = concept_report(runs["judged"], "vorla brint").accuracy
    assert accuracy
    rates = [rate for measure in accuracy.detail for rate in (measure.before, measure.after)]
    assert len(shown) == len(rates)
    for text, rate in zip(shown, rates, strict=True):
        assert rate
        low, high = (100 * end for end in rate.interval)
        expected = [f"{100 * rate.hits / rate.n:.1f} %", f"{low:.1f}–{high:.1f}", f"n = {rate.n}"]
        assert text.replace("\N{NO-BREAK SPACE}", " ").split("\n") == expected


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_has_contrast(browser: Browser, pages: dict[str, Path], dark: bool) -> None:
    browser.open(pages["judged"], width=1200, dark=dark)
    assert browser.value(CONTRASTS) == []


def test_everything_that_scrolls_can_be_reached_by_keyboard(
    browser: Browser, pages: dict[str, Path]
) -> None:
    browser.open(pages["judged"], width=390)
    unreachable = """[...document.querySelectorAll('.scroll')].filter(
        e => e.tabIndex !== 0 || !(e.ariaLabel || e.getAttribute('aria-labelledby'))).length"""
    assert browser.value(unreachable) == 0
    assert browser.value("document.querySelectorAll('img:not([alt])').length") == 0
    levels = browser.value("[...document.querySelectorAll('h1,h2,h3,h4')].map(e => +e.tagName[1])")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    browser.press("Tab")
    assert browser.value("document.activeElement.textContent") == "Skip to the overview"
