"""The site: an overview, a page for each concept and checkpoint, and images in separate files.

Everything is static, and can be opened from a disk or a bucket. Each page contains its style and
script, allowed only by their digests, and refers to images by relative paths.
"""

import base64
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from conceptprune.digest import digest_bytes
from conceptprune.errors import UserError
from conceptprune.store import Store

from . import plots
from .charts import heat_chart
from .data import evaluation_rows, only_evaluated, read_report
from .evaluations import (
    Checkpoint,
    Evaluations,
    Panel,
    Score,
    panels,
    read_evaluations,
)
from .image_pairs import Gallery
from .links import COMBINED, EVALUATION, OVERVIEW, Links, concept_page
from .measured import Measured, measured
from .render import environment, heat_top
from .rows import cost_of
from .values import WORDS, CombinedReport, ConceptReport, Cost, ReportData

MAX_PIXELS = 384
"""Longest side of an image, which may be larger in a separate file than inside a page."""
CHECKPOINTS = "checkpoints/"
GENERATOR = '<meta name="generator" content="conceptprune">'


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """The content of all pages, and their paths."""

    report: ReportData | None
    """None if the store has only evaluations and no erasure."""
    evaluations: Evaluations
    links: Links
    cost: Cost
    """The cost of evaluations and attacks."""
    scores: Mapping[str, tuple[Score, ...]]
    """Measurements of each page's subject, by the page's path."""
    measured: Mapping[str, Measured]
    """Measurements of the run's masks, by concept."""

    @classmethod
    def of(cls, report: ReportData | None, store: Store) -> "Site":
        """Sort the measurements by page."""
        links = Links.of(report)
        evaluations = read_evaluations(store)
        found: dict[str, dict[Score, None]] = {}
        names = dict.fromkeys(concept.name for concept in report.concepts) if report else {}
        for score in evaluations.scores:
            found.setdefault(links.checkpoint(score.checkpoint), {})[score] = None
            # A concept's page also says how much of it is left when it was erased with others.
            checkpoint = score.checkpoint
            about = {score.concept} if score.concept in names else set()
            if len(checkpoint.erased) == 1:
                about |= names.keys() & set(checkpoint.erased)
            for name in about:
                if checkpoint.source == "base" or name in checkpoint.erased:
                    found.setdefault(concept_page(name), {})[score] = None
        scores = {path: tuple(of) for path, of in found.items()}
        return cls(
            report=report,
            evaluations=evaluations,
            links=links,
            cost=cost_of(evaluation_rows(store), {}),
            scores=scores,
            measured=measured(names, scores, links),
        )

    @property
    def concepts(self) -> tuple[ConceptReport, ...]:
        """The concepts of the run."""
        return self.report.concepts if self.report else ()

    @property
    def subject(self) -> str:
        """The site's subject, for titles."""
        if self.report:
            return self.report.model
        return ", ".join(dict.fromkeys(score.suite for score in self.evaluations.scores))

    @property
    def not_shown(self) -> tuple[str, ...]:
        """What another version recorded that this one does not know."""
        of_run = self.report.not_shown if self.report else ()
        return (*of_run, *self.evaluations.not_shown)

    @property
    def is_demo(self) -> bool:
        """Whether its numbers are about the studio model: only that uses the demo's judge."""
        if self.report:
            return self.report.is_demo
        scores = self.evaluations.scores
        return any("studio-judge" in score.scorer + score.settings for score in scores)

    @property
    def evaluation_page(self) -> str:
        """The page with all evaluations: the first page, if there is nothing else."""
        return EVALUATION if self.report else OVERVIEW

    @property
    def tradeoffs(self) -> tuple[Panel, ...]:
        """The metrics measured both for what should go and for what should stay."""
        return tuple(panel for panel in self.evaluations.panels if panel.is_trade_off)

    @property
    def headline(self) -> tuple[Panel, ...]:
        """The main trade-off of each suite: one of shares, if there is one."""
        first: dict[str, Panel] = {}
        for panel in sorted(self.tradeoffs, key=lambda panel: not panel.is_share):
            first.setdefault(panel.suite, panel)
        return tuple(first.values())

    @property
    def evaluated(self) -> Score | None:
        """A number of the overview's metric for how much of each concept is left."""
        return next((found.erased for found in self.measured.values() if found.erased), None)

    @property
    def attacked(self) -> bool:
        """Whether any concept's own mask was attacked."""
        return any(found.attack for found in self.measured.values())


def write_site(store_uri: str, *, out: Path, run: str | None) -> tuple[str, ...]:
    """Write the site of `run`, or of the newest run, into the folder `out`.

    If the store has only evaluations, the site shows only these.

    The folder appears only when it is complete; an existing folder must be empty or a site. Returns
    what it leaves out, like `write_report`.

    Raises:
        UserError: there is no such store or run, or the folder cannot be written.
        StoreError: an object of the run is missing or damaged.
    """
    out = out.resolve()
    _check(out)
    try:
        with _replaced(out) as folder:
            gallery = Gallery(place=partial(_place, folder), max_pixels=MAX_PIXELS, whole=True)
            store = Store(store_uri)
            # A site can also show only evaluations, but then there is no run to select.
            alone = run is None and only_evaluated(store)
            report = None if alone else read_report(store_uri, run, gallery)
            site = Site.of(report, store)
            for path, page in pages(site):
                (folder / path).parent.mkdir(exist_ok=True)
                (folder / path).write_text(page, encoding="utf-8")
            return site.not_shown
    except OSError as error:
        raise UserError(f"--out {out}: {error.strerror or error}") from error


def pages(site: Site) -> Iterator[tuple[str, str]]:
    """Every page by its path, one after the other."""
    known = _known_to_all(site)

    def page(template: str, path: str, **values: Any) -> tuple[str, str]:
        root = "../" * path.count("/")
        scores = panels(site.scores.get(path, ()))
        shown = {**known, "path": path, "root": root, "scores": scores, **values}
        text = environment().get_template(template).render(shown)
        return path, text

    if site.report:
        yield page("index.html.j2", OVERVIEW, plot=plots.of_previews(site.report))
    if site.evaluations.scores:
        yield page("evaluation.html.j2", site.evaluation_page)
    concepts = site.concepts
    neighbours = zip((None, *concepts), concepts, (*concepts[1:], None), strict=False)
    for before, concept, after in neighbours:
        path = concept_page(concept.name)
        yield page("concept.html.j2", path, concept=concept, before=before, after=after)
    found = {site.links.checkpoint(each): each for each in site.evaluations.checkpoints}
    if site.report and site.report.combined:
        found[COMBINED] = _combined(site.report, site.report.combined)
    for path, checkpoint in found.items():
        if path.startswith(CHECKPOINTS):
            yield page("checkpoint.html.j2", path, checkpoint=checkpoint)


def _combined(report: ReportData, combined: CombinedReport) -> Checkpoint:
    return Checkpoint(
        label=combined.words.title,
        source=combined.how,
        digest=combined.facts.digest if combined.facts else "",
        erased=tuple(
            concept.name for concept in report.concepts if concept.name not in report.lacking
        ),
    )


def _known_to_all(site: Site) -> dict[str, Any]:
    """What every page of a site may show."""
    templates = environment()
    style = "".join(_source(templates, name) for name in ("report.css", "site.css"))
    script = _source(templates, "site.js")
    top = heat_top(site.concepts)
    return {
        "site": site,
        "report": site.report,
        "links": site.links,
        "concept_page": concept_page,
        "panel_plot": partial(plots.of_panel, links=site.links),
        "chart": partial(heat_chart, top=top),
        "heat_top": top,
        # Nothing in these comes from a manifest, and escaping would break them.
        "style": Markup(style),
        "script": Markup(script),
        "policy": (
            "default-src 'none'; base-uri 'none'; form-action 'none'; img-src 'self' file: data:; "
            f"style-src {_allowed(style)}; script-src {_allowed(script)}"
        ),
        "COMBINED": COMBINED,
        "words": WORDS,
        "EVALUATION": site.evaluation_page,
        "OVERVIEW": OVERVIEW,
    }


def _source(templates: Environment, name: str) -> str:
    assert templates.loader is not None
    return templates.loader.get_source(templates, name)[0]


def _allowed(text: str) -> str:
    """The content security policy's source for exactly these bytes."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def _place(folder: Path, data: bytes, suffix: str) -> str:
    """Write an image under its digest; concepts share images of retained concepts."""
    path = f"images/{digest_bytes(data)[:24]}.{suffix}"
    target = folder / path
    if not target.exists():
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(data)
    return path


def _check(out: Path) -> None:
    """Refuse to replace anything but an earlier site."""
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError(
            f"--out {out}: is a file; one page's name ends in .html, a site is a folder"
        )
    if not any(out.iterdir()):
        return
    try:
        is_site = GENERATOR in (out / OVERVIEW).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        is_site = False
    if not is_site:
        raise UserError(f"--out {out}: holds other files; give a new folder, or that of a site")


@contextmanager
def _replaced(out: Path) -> Iterator[Path]:
    """A folder next to `out` that replaces it only after the block has finished."""
    out.parent.mkdir(parents=True, exist_ok=True)
    new, old = (out.with_name(f".{out.name}.{word}-{os.getpid()}") for word in ("new", "old"))
    new.mkdir()
    try:
        yield new
        if out.exists():
            out.rename(old)
        try:
            new.rename(out)
        except OSError:
            old.rename(out)
            raise
    finally:
        for folder in (new, old):
            shutil.rmtree(folder, ignore_errors=True)
