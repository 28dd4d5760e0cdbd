"""What a reader can do with the site in a real browser."""

import re
from itertools import pairwise
from pathlib import Path

import pytest

from pipelines.report.links import concept_page
from tests.pipelines.report.conftest import ERROR, FAILING, HOSTILE
from tests.pipelines.report.many import names
from tests.pipelines.report.shown import CONTRASTS, WIDTHS
from tests.pipelines.report.site.conftest import COUNT, PAGES, PEER, page_of
from tests.support.browser import Browser


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
