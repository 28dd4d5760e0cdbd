"""The files of the site, and the command that writes them."""

import re
import shutil
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from conceptprune.errors import StoreError, UserError
from conceptprune.store import Store
from pipelines.cli import main
from pipelines.report import write_report
from pipelines.report.data import read_report
from pipelines.report.evaluations import read_evaluations
from pipelines.report.links import Links, concept_page, page_name
from pipelines.report.values import ReportData
from tests.pipelines.report.conftest import Run
from tests.pipelines.report.many import names
from tests.pipelines.report.site.conftest import COUNT, PEER
from tests.support.browser import Browser


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
