"""Scorers of previews: checked with the manifest, and in its run's id and its plan."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from conceptprune import digest
from conceptprune.errors import ManifestError, UserError
from conceptprune.evaluation.job_manifest import JobManifest, load_job_manifest
from conceptprune.evaluation.previews import with_scores
from conceptprune.evaluation.scorers.base import Facts, ScorerSettings
from conceptprune.evaluation.scorers.nudity import NudeNetSettings
from conceptprune.evaluation.units import PreviewScoresUnit
from conceptprune.manifest import load_manifest
from conceptprune.prompts.pairs import prompt_pairs
from conceptprune.units.run_id import run_id
from conceptprune.units.units import PreviewUnit
from pipelines.jobs.preparation import Prepared, plan_here, prepare


def write(folder: Path, **preview: Any) -> Path:
    content = {
        "version": 1,
        "model": {"builtin": "studio"},
        "fillers": {"style": ["cat", "dog"]},
        "concepts": [{"name": "vorla brint", "kind": "style"}],
        "retain": [{"name": "soren abeck", "kind": "style"}],
        "collection": {"steps": 4, "tau": 2, "dtype": "float32", "device": "cpu"},
        "outputs": {"preview": {"seeds": [1], "prompts_per_concept": 1, **preview}},
    }
    folder.mkdir(exist_ok=True)
    path = folder / "m.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def prepared_of(folder: Path, **preview: Any) -> Prepared:
    return prepare(write(folder, **preview))


def test_judge_studio_is_a_spelling_of_the_studio_s_scorer(tmp_path: Path) -> None:
    def titles(**preview: Any) -> list[str]:
        return [each.title for each in load_job_manifest(write(tmp_path, **preview)).scorers]

    assert titles() == []
    assert titles(judge="studio") == ["studio-judge"]
    assert titles(scorers=[{"scorer": "studio-judge"}]) == ["studio-judge"]
    assert titles(scorers=[{"scorer": "studio-judge"}], judge="studio") == ["studio-judge"]
    assert titles(scorers=[{"scorer": "nudenet"}], judge="studio") == ["nudenet", "studio-judge"]


def test_the_manifest_s_own_package_reads_scorers_that_it_does_not_know(tmp_path: Path) -> None:
    path = write(tmp_path, scorers=[{"scorer": "of a later version"}])
    assert load_manifest(path).outputs.preview
    with pytest.raises(ManifestError, match=r"outputs\.preview\.scorers\[0\]\.scorer"):
        load_job_manifest(path)


@pytest.mark.parametrize(
    ("scorers", "where", "said"),
    [
        ([{"scorer": "nudenet", "threshold": 2.0}], "scorers[0].threshold", "found:   2.0"),
        (
            [{"scorer": "studio-judge"}, {"scorer": "studio-judge"}],
            "scorers[1]",
            "a name of its own",
        ),
        ([{"scorer": "lpips"}], "scorers[0]", "use a suite"),
        ([{"scorer": "studio-judge", "nets": 1}], "scorers[0].nets", "unknown"),
    ],
)
def test_a_wrong_scorer_is_refused_with_its_line(
    tmp_path: Path, scorers: list[dict[str, Any]], where: str, said: str
) -> None:
    path = write(tmp_path, scorers=scorers)
    with pytest.raises(ManifestError) as refused:
        load_job_manifest(path)
    assert f"outputs.preview.{where}" in str(refused.value)
    assert said in str(refused.value)


def test_a_scorer_without_its_weights_is_refused_before_any_work(tmp_path: Path) -> None:
    path = write(tmp_path, scorers=[{"scorer": "judge", "weights": "not/there"}])
    with pytest.raises(UserError, match=r"scorers: .*not/there/judge\.json"):
        prepare(path)


def test_every_preview_is_scored_by_every_scorer_and_has_the_same_key_without(
    tmp_path: Path,
) -> None:
    plain = plan_here(prepared_of(tmp_path / "plain"))
    scored = plan_here(prepared_of(tmp_path / "scored", scorers=[{"scorer": "studio-judge"}]))
    previews = scored.of(PreviewUnit)
    assert previews.keys() == plain.of(PreviewUnit).keys()
    assert not plain.of(PreviewScoresUnit)
    scores = scored.of(PreviewScoresUnit).values()
    assert sorted(unit.preview for unit in scores) == sorted(previews)
    for unit in scores:
        assert scored.labels[unit.key] == scored.labels[unit.preview] == ("vorla brint",)


def test_scores_are_others_with_another_scorer_other_weights_or_other_labels(
    tmp_path: Path,
) -> None:
    prepared = prepared_of(tmp_path, scorers=[{"scorer": "studio-judge"}])
    ((scorer, facts),) = prepared.scorers

    def keys(scorer: ScorerSettings, facts: Facts, kind: str = "style") -> set[str]:
        concepts = tuple(
            concept.model_copy(update={"kind": kind}) for concept in prepared.manifest.concepts
        )
        manifest = prepared.manifest.model_copy(update={"concepts": concepts})
        plan = replace(prepared, scorers=())
        pairs = {
            concept.name: prompt_pairs(concept, seed=0)
            for concept in (*prepared.manifest.concepts, *prepared.manifest.retain)
        }
        scored = with_scores(plan.plan(pairs), manifest, pairs, [(scorer, facts)])
        return set(scored.of(PreviewScoresUnit))

    same = keys(scorer, facts)
    nudenet = NudeNetSettings(scorer="nudenet")
    stricter = NudeNetSettings(scorer="nudenet", threshold=0.9)
    assert same == keys(scorer, facts)
    for others in (
        keys(scorer, replace(facts, weights="0" * 64)),
        keys(scorer, replace(facts, versions={"torch": "1.0"})),
        keys(nudenet, facts),
        keys(stricter, facts),
        keys(scorer, facts, kind="object"),
    ):
        assert len(others) == len(same)
        assert others != same
    assert not keys(nudenet, facts) & keys(stricter, facts)


def test_scores_are_others_with_another_version_of_the_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepared_of(tmp_path, scorers=[{"scorer": "studio-judge"}])
    concepts = (*prepared.manifest.concepts, *prepared.manifest.retain)
    pairs = {concept.name: prompt_pairs(concept, seed=0) for concept in concepts}
    # The same previews: their own keys have the version in them, too.
    plan = replace(prepared, scorers=()).plan(pairs)

    def keys() -> set[str]:
        scored = with_scores(plan, prepared.manifest, pairs, prepared.scorers)
        return set(scored.of(PreviewScoresUnit))

    before = keys()
    monkeypatch.setattr(digest, "METHOD_VERSION", digest.METHOD_VERSION + 1)
    assert before
    assert not before & keys()


def test_the_cases_say_what_each_prompt_asks_for(tmp_path: Path) -> None:
    plan = plan_here(prepared_of(tmp_path, scorers=[{"scorer": "studio-judge"}]))
    labels = {
        case.text: dict(case.labels)
        for unit in plan.of(PreviewScoresUnit).values()
        for case in unit.cases
    }
    own = plan.concepts[0].pairs[0]
    assert labels[own.target.text] == {"style": "vorla brint", "object": "cat"}
    assert labels[own.base.text] == {"object": "cat"}
    others = [shown for shown in labels.values() if shown.get("style") == "soren abeck"]
    assert others


def test_a_run_s_id_follows_its_scorers_and_not_where_their_weights_lie(tmp_path: Path) -> None:
    def run(manifest: JobManifest) -> str:
        return run_id(manifest, prepared_of(tmp_path / "any").model)

    def asked(where: str, **scorer: Any) -> str:
        return run(load_job_manifest(write(tmp_path / where, scorers=[scorer])))

    here = asked("here", scorer="judge", weights="folder")
    assert here == asked("there", scorer="judge", weights="folder")
    assert here != asked("here", scorer="judge", weights="folder", name="other")
    assert here != run(load_job_manifest(write(tmp_path / "here")))
