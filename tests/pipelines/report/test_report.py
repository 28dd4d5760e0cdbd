"""The report's numbers are those of the store, and its page holds in a real browser."""

import base64
import html
import io
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conceptprune.collection.statistics import Statistics
from conceptprune.errors import UserError
from conceptprune.evaluation.scorers.base import Domain, Metric
from conceptprune.evaluation.units import PreviewScoresUnit
from conceptprune.masks.mask import PruningMask
from conceptprune.store import Store, parquet_to_table
from conceptprune.studio.names import ARTISTS
from conceptprune.units.results import read_mask
from pipelines.records.ledger import read_ledger, write_ledger
from pipelines.records.recognised import ScorerMetric, Seen, seen_in_preview_2
from pipelines.records.run_record import RunRecord
from pipelines.report import write_report
from pipelines.report.accuracy import Rate, judge_pairs
from pipelines.report.data import read_report
from pipelines.report.image_pairs import ImagePair, SeenImage, make_strip
from pipelines.report.render import render
from pipelines.report.values import ConceptReport, ReportData
from pipelines.report.where import short_names
from pipelines.scheduling.loop import needs
from tests.pipelines.report.conftest import ERROR, FAILING, HOSTILE, Run
from tests.support.browser import Browser

WIDTHS = (390, 1200)


@pytest.fixture(scope="module")
def pages(runs: dict[str, Run], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    for name, run in runs.items():
        write_report(run.store.uri, out=folder / f"{name}.html", run=run.plan.run)
    return {name: folder / f"{name}.html" for name in runs}


def concept_report(run: Run, name: str) -> ConceptReport:
    report = read_report(run.store.uri, run.plan.run)
    return next(concept for concept in report.concepts if concept.name == name)


# What the numbers are


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


# Images and questions


def image_pair(
    prompt: str, seed: int = 0, *, side: int = 64, seen: tuple[Seen, ...] = ()
) -> ImagePair:
    sink = io.BytesIO()
    Image.new("RGB", (side, side), "teal").save(sink, format="png")
    image = SeenImage(png=sink.getvalue(), seen=seen)
    return ImagePair(prompt=prompt, seed=seed, role="own", before=image, after=image)


def test_small_images_are_embedded_as_they_are_and_large_ones_shrunk() -> None:
    small, large = image_pair("small"), image_pair("large", side=512)
    strip = make_strip([small, large], "own", limit=2)
    assert strip
    kept, shrunk = (column.before for column in strip.columns)
    assert kept
    assert shrunk
    assert small.before
    assert kept.src == f"data:image/png;base64,{base64.b64encode(small.before.png).decode()}"
    assert (kept.crisp, shrunk.crisp) == (True, False)
    mime, data = shrunk.src.split(",", 1)
    assert mime == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (256, 256)


def test_a_strip_shows_different_prompts_before_more_seeds() -> None:
    image_pairs = [image_pair(f"prompt {index}", seed) for seed in (0, 1) for index in range(6)]
    strip = make_strip(image_pairs, "own", limit=3)
    assert strip
    assert [(column.prompt, column.seed) for column in strip.columns] == [
        ("prompt 0", 0),
        ("prompt 2", 0),
        ("prompt 4", 0),
    ]
    assert strip.total == 12
    more = make_strip(image_pairs, "own", limit=8)
    assert more
    assert {column.seed for column in more.columns} == {0, 1}
    assert make_strip(image_pairs, "photo", limit=3) is None


def test_of_an_erased_object_its_thing_is_wanted_low() -> None:
    seen = seen_by("judge", "object", 0.0, "dog"), seen_by("judge", "style", 1.0, "photo")
    accuracy = judge_pairs([image_pair("a cat in a garden", seen=seen)], kind="object")
    assert accuracy
    assert accuracy.erased.question.want == "low"
    assert accuracy.erased.after == Rate(hits=0, n=1)
    assert accuracy.things.after is None, "what is to go is not counted as what is to stay"


def seen_by(scorer: str, domain: Domain | None, value: float | None, seen: str) -> Seen:
    how = Metric(erased="lower", kept="higher", domain=domain, is_share=True)
    metric = f"{domain} accuracy" if domain else "nude"
    return Seen(by=ScorerMetric(scorer=scorer, metric=metric, how=how), value=value, seen=seen)


def test_of_two_scorers_the_first_stands_for_the_concept_and_both_are_told() -> None:
    images = [(1.0, 0.0), (1.0, 1.0), (0.0, 0.0)]
    image_pairs = [
        image_pair(
            "a cat", seed, seen=(seen_by("a", "style", a, "x"), seen_by("b", "style", b, "y"))
        )
        for seed, (a, b) in enumerate(images)
    ]
    accuracy = judge_pairs(image_pairs, kind="style")
    assert accuracy
    assert accuracy.erased.after == Rate(hits=2, n=3)
    told = {measure.question.label: measure.after for measure in accuracy.detail}
    assert told == {
        "Erased artist recognised": Rate(hits=2, n=3),
        "Erased artist recognised, by b": Rate(hits=1, n=3),
    }


def test_a_concept_that_is_neither_style_nor_thing_is_told_by_its_scorer_s_own_share() -> None:
    accuracy = judge_pairs(
        [image_pair("a walk", seen=(seen_by("n", None, 1.0, ""),))], kind="nudity"
    )
    assert accuracy
    assert (accuracy.erased.question.label, accuracy.erased.question.want) == ("nude, by n", "low")
    assert accuracy.erased.after == Rate(hits=1, n=1)


def test_a_store_of_the_first_versions_has_what_the_judge_saw_in_its_previews() -> None:
    row = {"asked_thing": "cat", "asked_look": "photo", "seen_thing": "cat", "seen_look": "photo"}
    thing, style = seen_in_preview_2({**row, "prompt": "a photo of a cat"}, {"a photo of a cat"})
    assert (thing.value, thing.seen, style.value, style.seen) == (1.0, "cat", 1.0, "photo")
    # An artist whom the judge does not know reads as a photo, which says nothing of the artist.
    _, style = seen_in_preview_2({**row, "prompt": "a cat by nobody"}, {"a photo of a cat"})
    assert style.value is None
    unjudged = dict.fromkeys(row) | {"prompt": "a cat"}
    assert seen_in_preview_2(unjudged, ()) == ()


def test_what_a_scorer_cannot_say_is_not_counted() -> None:
    accuracy = judge_pairs(
        [image_pair("x", seen=(seen_by("a", "style", None, "ink"),))], kind="style"
    )
    assert accuracy is None


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

CONTRASTS = """
(() => {
  const rgba = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = rgba(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
  };
  const found = [];
  for (const element of document.querySelectorAll('body *')) {
    const text = [...element.childNodes].some(n => n.nodeType === 3 && n.data.trim());
    if (!text || element.tagName === 'title') continue;
    const style = getComputedStyle(element);
    const ink = rgba(element.tagName === 'text' ? style.fill : style.color);
    const [a, b] = [light(ink), light(ground(element))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) found.push(element.outerHTML.slice(0, 120));
  }
  return found;
})()
"""


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
