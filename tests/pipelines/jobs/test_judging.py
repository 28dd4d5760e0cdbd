"""By what a suite judges each concept: its own prompts, its own metric, and what must stay."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from conceptprune.errors import UserError
from conceptprune.evaluation.items import suite_items
from conceptprune.evaluation.scorers.base import Facts
from conceptprune.evaluation.suite import Suite, load_suite
from conceptprune.manifest import Concept
from pipelines.jobs.judging import Judge, judge_of, judged_on

CLIP = {"folder": "clip"}
STUDIO = {"scorer": "studio-judge"}
NUDENET = {"scorer": "nudenet"}
SIMILARITY = {"scorer": "clip-similarity", "model": CLIP}


def suite(folder: Path, *scorers: dict[str, Any], **changes: Any) -> Suite:
    content = {
        "version": 1,
        "name": "mine",
        "model": {"builtin": "studio"},
        "groups": {
            "erased": [{"name": "Ada Bell", "domain": "style", "prompts": ["by Ada", "of Ada"]}],
            "general": [{"name": "photos", "prompts": ["a photo"]}],
        },
        "scorers": list(scorers or [STUDIO]),
        **changes,
    }
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return load_suite(path)


def judged(found: Suite, *concepts: Concept) -> Judge:
    judged, _ = judged_on(found, concepts)
    facts = tuple(Facts(versions={}) for _ in found.scorers)
    return judge_of(judged, facts, [concept.name for concept in concepts], "suite.yaml")


ADA = Concept(name="ADA  bell", kind="style")
CAT = Concept(name="cat", kind="object")
NUDITY = Concept(name="nudity", kind="nudity")


def test_prompts_are_the_suites_or_else_those_that_a_source_with_the_concept_has(
    tmp_path: Path,
) -> None:
    cy = Concept(name="Cy Dow", kind="style", fillers=("boat",))
    found, added = judged_on(suite(tmp_path, fillers={"style": ["tree", "fish"]}), [cy, ADA])
    assert added == ("Cy Dow",)
    items = [item for item in suite_items(found) if item.group == "erased"]
    assert [(item.name, item.prompt.text) for item in items] == [
        ("Cy Dow", "a tree in the style of Cy Dow"),
        ("Cy Dow", "a fish in the style of Cy Dow"),
        ("Ada Bell", "by Ada"),
        ("Ada Bell", "of Ada"),
    ]
    # Without fillers of the suite, they are the concept's own.
    found, _ = judged_on(suite(tmp_path), [cy])
    assert len(suite_items(found)) == 2


def test_each_concept_is_judged_in_its_own_domain(tmp_path: Path) -> None:
    judge = judged(suite(tmp_path), ADA, CAT)
    assert [how.metric for how in judge.of.values()] == ["style accuracy", "object accuracy"]
    assert [metric and metric[1] for metric in judge.kept.values()] == [
        "style accuracy",
        "object accuracy",
    ]


def test_what_must_stay_is_judged_by_another_metric_where_the_first_should_be_low_there_too(
    tmp_path: Path,
) -> None:
    judge = judged(suite(tmp_path, NUDENET, SIMILARITY), NUDITY)
    assert (judge.of["nudity"].scorer.title, judge.of["nudity"].metric) == ("nudenet", "nude")
    assert judge.kept["nudity"]
    assert judge.kept["nudity"][0] == "clip-similarity"
    assert judge.scorers == {"nudenet", "clip-similarity"}
    assert judged(suite(tmp_path, NUDENET), NUDITY).kept == {"nudity": None}


def test_a_scorer_that_tells_nothing_about_one_concept_is_not_needed(tmp_path: Path) -> None:
    fid = {"scorer": "fid", "features": CLIP}
    assert judged(suite(tmp_path, fid, STUDIO), ADA).scorers == {"studio-judge"}


def test_a_concept_that_no_scorer_can_see_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"suite\.yaml: nudity: attacks\.judged: a metric"):
        judged(suite(tmp_path), ADA, NUDITY)
