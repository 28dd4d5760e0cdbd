"""What the tests of the site share: a store of many concepts, and sites of three stores."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from conceptprune.store import Store
from pipelines.report import write_report
from pipelines.report.data import read_report
from pipelines.report.links import concept_page
from tests.pipelines.report.conftest import Run
from tests.pipelines.report.many import commit_summary, names, score, store_of_many

COUNT = 40
PEER = "peer <img src=x onerror=alert(1)>"
PAGES = ("index.html", "evaluation.html", "concept", "checkpoint")


@pytest.fixture(scope="package")
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


@pytest.fixture(scope="package")
def site(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "site"
    write_report(store.uri, out=out, run=None)
    return out


@pytest.fixture(scope="package")
def hostile(runs: dict[str, Run], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of a run with a failed concept and one whose name is HTML."""
    out = tmp_path_factory.mktemp("hostile") / "site"
    write_report(runs["judged"].store.uri, out=out, run=runs["judged"].plan.run)
    return out


@pytest.fixture(scope="package")
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
