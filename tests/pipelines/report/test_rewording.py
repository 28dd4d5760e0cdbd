"""A report on a run that rewords its concepts: never of a mask where an edit of all is meant."""

import re
import shutil
from pathlib import Path

import pytest

from conceptprune.checkpoints.card import Share
from conceptprune.manifest import Reword
from conceptprune.store import Store
from pipelines.commands.export_combined import export_combined
from pipelines.jobs.preparation import prepare
from pipelines.report import plots, write_report
from pipelines.report.data import read_report
from pipelines.report.links import COMBINED
from pipelines.report.site import Site
from pipelines.report.values import CombinedReport, ReportData
from pipelines.report.verdict import verdict
from tests.pipelines.report.conftest import FUSED, HOSTILE, Run, run_here
from tests.pipelines.report.many import commit_summary, score
from tests.pipelines.report.shown import WIDTHS
from tests.support.browser import Browser

MANIFEST = FUSED.replace("outputs:\n", "method: reword\noutputs:\n").replace("  fuse: union\n", "")
VORLA = "vorla brint"


@pytest.fixture(scope="module")
def run(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("reworded")
    manifest = folder / "manifest.yaml"
    manifest.write_text(MANIFEST.replace("MODEL", str(tiny_folder)), encoding="utf-8")
    store = Store(str(folder / "store"))
    return run_here(prepare(manifest), store, started=1.7e9, failing=lambda _: False)


@pytest.fixture(scope="module")
def lacking(run: Run, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run in which the sums of one concept failed, and with them the rewording of all."""
    folder = tmp_path_factory.mktemp("lacking")
    manifest = folder / "manifest.yaml"
    manifest.write_text(MANIFEST.replace("MODEL", str(tiny_folder)), encoding="utf-8")
    store = Store(str(folder / "store"))
    # It has come to where the sums are.
    not_yet = shutil.ignore_patterns("runs", "shift", "reword", "preview")
    shutil.copytree(run.store.uri, store.uri, ignore=not_yet)
    return run_here(
        prepare(manifest),
        store,
        started=1.7e9,
        failing=lambda unit: unit.kind == "shift" and unit.detail == HOSTILE,
    )


@pytest.fixture(scope="module")
def site(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its site, with an evaluation of the very delta and one of another."""
    folder = tmp_path_factory.mktemp("site")
    store = Store(str(folder / "store"))
    shutil.copytree(run.store.uri, store.uri)
    combined = combined_of(read_report(store.uri, None))
    assert combined.facts
    own = {"checkpoint": "exported.safetensors", "source": "delta", "erased": [VORLA, HOSTILE]}
    mine, other = ({**own, "digest": each} for each in (combined.facts.digest, "ab" * 32))
    other["checkpoint"] = "another"
    rows = [score(**each, group="erased", value=0.25) for each in (mine, other)]
    rows += [score(**each, group="retained", value=0.75) for each in (mine, other)]
    rows += [score(**mine, group=f"erased/{VORLA}", value=0.125)]
    commit_summary(store, rows)
    write_report(store.uri, out=folder / "site", run=None)
    write_report(store.uri, out=folder / "page.html", run=None)
    return folder / "site"


def combined_of(report: ReportData) -> CombinedReport:
    assert report.combined
    return report.combined


def words_of(html: str) -> str:
    """What a page says, without its style and script."""
    text = re.sub(r"<(style|script)>.*?</\1>", "", html, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", text).split()).replace("\N{NO-BREAK SPACE}", " ")


def section(html: str, start: str, end: str) -> str:
    return words_of(html[html.index(start) : html.index(end, html.index(start))])


def test_its_numbers_are_those_of_the_delta(run: Run) -> None:
    report = read_report(run.store.uri, None)
    combined = combined_of(report)
    assert run.plan.combined
    ref = run.store.get("reword", run.plan.combined.key).objects["delta"]
    assert combined.how == "reworded"
    assert combined.facts
    facts = combined.facts
    assert (facts.digest, facts.path, facts.size) == (ref.digest, ref.path, ref.size)
    assert facts.entries > 10_000
    assert combined.rewording == Reword().key_parts
    assert combined.lacking == ()
    # The judge looks at the images of both concepts, with all reworded.
    assert combined.accuracy
    assert combined.accuracy.erased.after
    assert {strip.role for strip in combined.strips} == {"own", "photo", "retained"}
    columns = [column for strip in combined.strips for column in strip.columns]
    assert any(column.before and column.after for column in columns)
    rates = combined.accuracy.erased.after, combined.accuracy.retained.after
    assert rates[1]
    assert verdict(report).endswith(
        f"with all reworded at once, {rates[0].hits} of {rates[0].n} images still show one of "
        f"them, and others are recognised in {100 * rates[1].share:.0f} % of {rates[1].n}."
    )
    plot = plots.of_previews(report)
    assert plot
    assert {"all reworded": "reworded"}.items() <= {p.label: p.source for p in plot.points}.items()
    titles = [kind.title for kind in report.cost.kinds]
    assert {"Sums of what is reworded", "Sums of what stays", "Rewordings"} <= set(titles)
    assert len(set(titles)) == len(titles)


def test_its_page_speaks_of_a_rewording_and_leads_to_what_was_measured_of_it(site: Path) -> None:
    html = (site / COMBINED).read_text()
    said = words_of(html)
    assert "All of them, reworded at once" in said
    assert "Source: several concepts reworded at once, SHA-256" in said
    assert re.search(r"Reworded: [\d ]+ weights of keys and values edited, [\d.]+ % of", said)
    assert re.search(r"Files Delta, [\d.]+ kB: objects/delta/model=\w+/\w{64}\.safetensors", said)
    # Outside the limits, which are of the concepts' own masks too.
    own = section(html, "<h1>", "<footer>")
    assert "mask" not in own
    assert "prun" not in own
    assert 'alt="before rewording: ' in html
    assert 'alt="after rewording: ' in html
    assert "Anyone who has the base model can take it back" in said
    assert "exported.safetensors" in said
    evaluations = (site / "evaluation.html").read_text()
    assert f'<a href="{COMBINED}">exported.safetensors</a>' in evaluations
    assert re.search(r'<a href="checkpoints/another-\w+\.html">another</a>', evaluations)
    overview = words_of((site / "index.html").read_text())
    assert "All reworded" in overview
    assert "All in one mask" not in overview
    assert "all concepts at once, by UCE's equation on whole prompts" in overview
    assert "base 6.0, empty 1.5, retain 4.5, ridge 0.001, vocabulary 1.0, words 1000" in overview


def test_a_concepts_page_has_what_is_left_of_it_with_all_reworded(site: Path) -> None:
    (page,) = (site / "concepts").glob("vorla-brint-*.html")
    html = page.read_text()
    measured = section(html, 'id="measured-title"', "</section>")
    assert "Checkpoint Group Metric Value" in measured
    assert "all reworded erased" in measured
    assert "12.5 %" in measured


def test_the_page_of_its_own_speaks_of_it_as_the_site_does(site: Path) -> None:
    html = (site.parent / "page.html").read_text()
    said = words_of(html)
    row = section(html, '<th scope="row">All of them', "</tr>")
    assert re.fullmatch(
        r".*All of them, reworded at once.* [\d ]+ reworded "
        r"[\d.]+ delta \w{12}",
        row,
    ), row
    assert "All of them, reworded at once: before and after" in said
    assert "in one mask" not in said
    assert re.search(r"Delta, [\d.]+ kB: objects/delta/", said)


def test_whom_it_lacks_lacks_sums_and_no_mask(lacking: Run, tmp_path: Path) -> None:
    # As a job leaves it whose rewording of the others is still to be made.
    report = read_report(lacking.store.uri, None)
    combined = combined_of(report)
    assert combined.facts is None
    write_report(lacking.store.uri, out=tmp_path / "site", run=None)
    said = words_of((tmp_path / "site" / COMBINED).read_text())
    assert "Not done: the concepts have not been reworded yet." in said
    write_report(lacking.store.uri, out=tmp_path / "page.html", run=None)
    page = words_of((tmp_path / "page.html").read_text())
    assert "All of them, reworded at once" in page
    assert "not done" in page


def test_a_rewordings_card_has_what_its_images_and_evaluations_showed(
    run: Run, site: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    store = str(site.parent / "store")
    export_combined(store, out=tmp_path / "out", form="pipeline", run=None, model=tiny_folder)
    card = (tmp_path / "out" / "README.md").read_text()
    accuracy = combined_of(read_report(store, None)).accuracy
    assert accuracy
    for measure in accuracy.detail:
        if measure.after:
            low, high = measure.after.interval
            share = Share(value=measure.after.share, low=low, high=high, n=measure.after.n)
            assert f"| {share} |" in card
    (_, evaluated) = card.split("## Evaluated")
    assert "| 0.25 " in evaluated
    assert evaluated.count("`studio-judge`") == 2


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("page", [COMBINED, "../page.html"])
def test_its_pages_fit_the_screen(browser: Browser, site: Path, page: str, width: int) -> None:
    browser.open((site / page).resolve(), width=width)
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.messages == []


def test_the_evaluated_delta_is_the_pages(site: Path) -> None:
    report = read_report(str(site.parent / "store"), None)
    found = Site.of(report, Store(str(site.parent / "store")))
    assert found.links.how == "reworded"
    assert [each.value for each in found.measured[VORLA].combined] == [0.125]


def test_images_of_the_combined_checkpoint_alone_show_each_concept_in_its_own_section(
    tiny_folder: Path, run: Run, tmp_path: Path
) -> None:
    alone = MANIFEST.replace("preview: {", "preview: {of: combined, batch_size: 2, ")
    assert alone != MANIFEST
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text(alone.replace("MODEL", str(tiny_folder)), encoding="utf-8")
    # All but the images is there already.
    store = Store(str(tmp_path / "store"))
    shutil.copytree(run.store.uri, store.uri)
    run_here(prepare(manifest), store, started=1.8e9, failing=lambda _: False)
    each, shared = (read_report(store.uri, name) for name in (run.plan.run, None))
    assert shared.run != each.run
    for concept, before in zip(shared.concepts, each.concepts, strict=True):
        strips = {strip.role: strip for strip in concept.strips}
        (own,) = (strip for strip in before.strips if strip.role == "own")
        # Its own prompts' images alone: the others of its batch are not its own.
        assert set(strips) == {"own"}
        assert strips["own"].total == own.total
    assert shared.combined
    assert each.combined
    assert [strip.role for strip in shared.combined.strips] == [
        strip.role for strip in each.combined.strips
    ]
