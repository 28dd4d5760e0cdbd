"""What a suite may say, which prompts it means, and what is refused before any work."""

import hashlib
import io
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from conceptprune.errors import ManifestError
from conceptprune.evaluation.items import derived_seed, suite_items
from conceptprune.evaluation.plan import shards_of
from conceptprune.evaluation.scorers import Facts, declared
from conceptprune.evaluation.suite import Suite, load_suite
from conceptprune.evaluation.summarise import scorer_settings
from conceptprune.manifest import load_manifest
from conceptprune.manifest.files import allow_files_from
from pipelines.jobs.evaluate import tell_unpinned

ROOT = Path(__file__).parents[3]
SHIPPED = sorted((ROOT / "manifests" / "suites").glob("*.yaml"))


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped suites, with the data sets beside them that users bring themselves."""
    folder = tmp_path_factory.mktemp("suites") / "manifests"
    shutil.copytree(ROOT / "manifests", folder)
    (folder / "suites" / "coco.csv").write_text("prompt,evaluation_seed\na cat,3\na dog,4\n")
    (folder / "suites" / "i2p.csv").write_text(
        ",prompt,categories,hard,evaluation_seed,evaluation_guidance\n"
        '0,"a portrait, by someone",sexual,0,1701055990,7.5\n1,the same,sexual,0,12,7\n'
    )
    (folder / "suites" / "mma.csv").write_text("adv_prompt\nan attack\n")
    (folder / "suites" / "Nudity_ring-a-bell.csv").write_text("an attack, with a comma\n")
    for artist in ("Van Gogh", "Monet", "Pablo Picasso", "Salvador Dali", "Leonardo Da Vinci"):
        titles = "case_number,prompt,evaluation_seed\n0,a title,1\n1,another,2\n"
        (folder / "suites" / f"test_{artist}.csv").write_text(titles)
    for number in range(10):
        (folder / "suites" / f"memorize_{number}.txt").write_text("a caption\nanother one\n")
    # These stand-ins are not the files that are meant, which are known by their digests.
    for path in folder.rglob("paper-*.yaml"):
        path.write_text(re.sub(r"(,|\n) *sha256: [0-9a-f]{64}", "", path.read_text()))
    memorised = folder / "suites" / "paper-memorised.yaml"
    memorised.write_text(memorised.read_text().replace("# sha256:", f"sha256: {'a' * 64}"))
    return folder / "suites"


def test_the_suite_that_runs_a_torchscript_file_asks_its_user_for_the_digest(
    beside: Path, tmp_path: Path
) -> None:
    shutil.copytree(beside, tmp_path / "suites")
    path = tmp_path / "suites" / "paper-memorised.yaml"
    path.write_text(re.sub(r"\n *sha256: a{64}", "", path.read_text()))
    with pytest.raises(ManifestError) as caught:
        load_suite(path)
    assert "scorers[0].sha256" in str(caught.value)
    assert "the SHA-256 of torchscript, as sha256sum prints it" in str(caught.value)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_suite_is_valid_and_asks_for_images(path: Path, beside: Path) -> None:
    assert len(suite_items(load_suite(beside / path.name))) > 1


SHARES = {
    "classifier": {"top-1 accuracy", "top-5 accuracy"},
    "clip-accuracy": {"accuracy"},
    "clip-drop": {"fell"},
    "copies": {"copied"},
    "gender-ratio": {"female"},
    "judge": {"style accuracy", "object accuracy"},
    "nudenet": {"nude"},
    "studio-judge": {"style accuracy", "object accuracy"},
}


def test_what_a_scorer_says_of_its_metrics_is_found_again_by_what_a_summary_has_of_it(
    beside: Path,
) -> None:
    scorers = [scorer for path in SHIPPED for scorer in load_suite(beside / path.name).scorers]
    shares: dict[str, set[str]] = {}
    for scorer in scorers:
        recorded = json.loads(json.dumps(scorer_settings(scorer, Facts(versions={}))))
        for name, metric in scorer.metrics.items():
            assert declared(recorded, name) == metric
            assert declared({**recorded, "of": name}, "UA") == metric
            if metric.is_share:
                shares.setdefault(recorded["scorer"]["scorer"], set()).add(name)
        assert declared(recorded, "no such metric") is None
    assert shares == SHARES
    assert declared({"scorer": {"scorer": "of a peer"}}, "accuracy") is None
    assert declared({"scorer": "of a peer"}, "accuracy") is None


def test_a_file_of_prompts_must_be_the_one_that_is_meant(tmp_path: Path) -> None:
    content = b"a title\n"
    (tmp_path / "titles.txt").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()

    def with_digest(value: str) -> Suite:
        source = {"name": "titles", "file": "titles.txt", "sha256": value}
        return suite(tmp_path, groups={"erased": [source]})

    assert len(suite_items(with_digest(digest))) == 1
    with pytest.raises(ManifestError, match=rf"sha256(.|\n)*which is {digest}"):
        with_digest("0" * 64)


def test_a_file_of_prompts_without_a_digest_is_told_with_the_one_it_has(tmp_path: Path) -> None:
    content = b"prompt,sd_seed\na title,3\n"
    (tmp_path / "i2p.csv").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    source = {"name": "nudity", "csv": "i2p.csv"}
    printed = io.StringIO()
    for given in ({}, {"sha256": digest}):
        found = suite(tmp_path, groups={"erased": [{**source, **given}]})
        tell_unpinned(Console(file=printed, width=40), found)
    assert printed.getvalue().count(f"sha256: {digest}\n") == 1
    assert f"{tmp_path / 'i2p.csv'}: " in printed.getvalue()


@pytest.mark.parametrize("name", ["paper-artists", "paper-nudity", "paper-memorised"])
def test_a_shipped_suite_without_the_files_that_its_user_brings_names_them(name: str) -> None:
    with pytest.raises(ManifestError, match=r"(csv|file|captions)(.|\n)*No such file"):
        load_suite(ROOT / "manifests" / "suites" / f"{name}.yaml")


def test_a_pipe_with_a_digest_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "titles.txt")
    source = {"name": "titles", "file": "titles.txt", "sha256": "0" * 64}
    with pytest.raises(ManifestError, match="not a regular file"):
        suite(tmp_path, groups={"erased": [source]})


def test_a_digest_is_of_a_file_only(tmp_path: Path) -> None:
    source = {"name": "titles", "prompts": ["a title"], "sha256": "0" * 64}
    with pytest.raises(ManifestError, match="only a file or a csv has one"):
        suite(tmp_path, groups={"erased": [source]})


def test_the_papers_experiments_are_shipped() -> None:
    names = ("artists", "nudity", "objects-erase", "objects-keep", "gender", "memorised", "coco")
    assert {"gallery", "studio", *(f"paper-{name}" for name in names)} == {
        path.stem for path in SHIPPED
    }


def test_the_suites_of_the_paper_erase_what_its_manifests_do(beside: Path) -> None:
    for suite in ("paper-artists", "paper-objects-erase", "paper-memorised"):
        wanted = load_manifest(beside.parent / f"{suite.removesuffix('-erase')}.yaml")
        erased = load_suite(beside / f"{suite}.yaml").groups.erased
        assert [source.title for source in erased] == [c.name for c in wanted.concepts]


def test_the_captions_that_are_generated_are_those_that_were_erased() -> None:
    shipped = [ROOT / "manifests" / f"{folder}paper-memorised.yaml" for folder in ("", "suites/")]
    manifest, suite = (yaml.safe_load(path.read_text()) for path in shipped)
    erased = {c["captions"]["file"]: c["captions"]["sha256"] for c in manifest["concepts"]}
    generated = {f"suites/{s['file']}": s["sha256"] for s in suite["groups"]["erased"]}
    assert erased == generated
    assert len(set(erased.values())) == 10


def write(tmp_path: Path, **sections: Any) -> Path:
    content = {
        "version": 1,
        "name": "mine",
        "model": {"builtin": "studio"},
        "groups": {"erased": [{"concept": {"name": "vorla brint", "kind": "style"}}]},
        "scorers": [{"scorer": "studio-judge"}],
        **sections,
    }
    path = tmp_path / "suite.yaml"
    # Through JSON, for values that occur twice would become aliases, which are refused.
    path.write_text(yaml.safe_dump(json.loads(json.dumps(content)), sort_keys=False))
    return path


def suite(tmp_path: Path, **sections: Any) -> Suite:
    return load_suite(write(tmp_path, **sections))


def test_a_csv_gives_its_own_seeds_and_guidance_and_shards_have_one_guidance(
    beside: Path,
) -> None:
    items = [
        item
        for item in suite_items(load_suite(beside / "paper-nudity.yaml"))
        if item.name == "nudity"
    ]
    assert [(i.prompt.text, i.prompt.seed, i.guidance) for i in items] == [
        ("a portrait, by someone", 1701055990, 7.5),
        ("the same", 12, 7.0),
    ]
    assert [(len(shard.prompts), shard.guidance) for shard in shards_of(items, 8)] == [
        (1, 7.5),
        (1, 7.0),
    ]


def test_every_prompt_has_noise_of_its_own_that_no_other_prompt_changes(tmp_path: Path) -> None:
    few = suite_items(suite(tmp_path, fillers={"style": ["cat", "dog"]}, generation={"seeds": [5]}))
    many = suite_items(
        suite(
            tmp_path, fillers={"style": ["car", "cat", "dog"]}, generation={"seeds": {"count": 6}}
        )
    )
    assert len({item.prompt.seed for item in few}) == 2
    assert {item.prompt for item in few} <= {item.prompt for item in many}
    assert few[0].prompt.seed == derived_seed(5, "a cat in the style of vorla brint")
    assert dict(few[0].labels) == {"object": "cat", "style": "vorla brint"}


def test_the_suites_seed_itself_can_be_asked_for(tmp_path: Path) -> None:
    items = suite_items(suite(tmp_path, generation={"seeds": [7], "seed_of": "suite"}))
    assert {item.prompt.seed for item in items} == {7}


def test_a_prompt_of_two_groups_is_generated_once_and_scored_for_both(tmp_path: Path) -> None:
    prompts = [{"text": "a cat", "seed": 1}]
    groups = {
        "retained": [{"name": "cat", "domain": "object", "prompts": prompts}],
        "general": [{"name": "photos", "prompts": prompts}],
    }
    (shard,) = shards_of(suite_items(suite(tmp_path, groups=groups)), 8)
    assert len(shard.prompts) == 1
    assert [dict(case.labels) for case in shard.cases] == [{"object": "cat"}, {}]


CLIP = {"scorer": "clip-similarity", "model": {"folder": "clip"}}


@pytest.mark.parametrize(
    ("sections", "where", "fix"),
    [
        ({"scorers": [{"scorer": "nudnet"}]}, "scorers[0].scorer", "nearest: nudenet"),
        ({"scorers": [CLIP, CLIP]}, "scorers[1]", "give name:"),
        ({"scorers": [{"scorer": "clip-similarity"}]}, "scorers[0].model", "folder, or hub"),
        ({"scorers": [{"scorer": "fid", "features": 3}]}, "scorers[0].features", "folder, or hub"),
        (
            {"scorers": [{"scorer": "copies", "torchscript": "sscd.pt"}]},
            "scorers[0].sha256",
            "SHA-256",
        ),
        (
            {"scorers": [{"scorer": "nudenet", "classes": ["FACE_FEMALE"]}]},
            "scorers[0].classes[0]",
            "FEMALE_BREAST_EXPOSED",
        ),
        ({"groups": {}}, "groups.general", "prompts in at least one"),
        (
            {"groups": {"general": [{"name": "x", "csv": "nowhere.csv"}]}},
            "groups.general[0].csv",
            "No such file",
        ),
        (
            {"groups": {"general": [{"name": "x", "csv": "a.csv", "prompts": ["a"]}]}},
            "groups.general[0].csv",
            "this has prompts, csv",
        ),
        (
            {"groups": {"general": [{"name": "x"}]}},
            "groups.general[0].csv",
            "exactly one of concept, prompts, file, csv",
        ),
        (
            {"groups": {"general": [{"prompts": ["a"]}]}},
            "groups.general[0].name",
            "a name for what",
        ),
        ({"generation": {"seeds": [1, 1]}}, "generation.seeds[1]", "no seed twice"),
        ({"generation": {"shard_prompts": 0}}, "generation.shard_prompts", "at least 1"),
        ({"drawing": {"steps": 0}}, "drawing.steps", "at least 1"),
        (
            {
                "groups": {"erased": [{"name": "x", "prompts": ["a"]}]},
                "groupings": ["unlearncanvas"],
            },
            "groupings",
            "not all styles",
        ),
    ],
)
def test_a_wrong_suite_is_refused_with_field_and_fix(
    tmp_path: Path, sections: dict[str, Any], where: str, fix: str
) -> None:
    with pytest.raises(ManifestError) as refused:
        suite(tmp_path, **sections)
    assert f": {where}\n" in str(refused.value)
    assert fix in str(refused.value)


@pytest.mark.parametrize(
    ("content", "fix"),
    [
        ("text,seed\na,1\n", "a column prompt"),
        ("prompt,evaluation_seed\na,one\n", "p.csv:2: evaluation_seed"),
        ("prompt,evaluation_seed\na,-1\n", "at least 0"),
        ("prompt,evaluation_guidance\na,nan\n", "evaluation_guidance"),
        ('prompt,evaluation_seed\n"a,1\n', "a CSV file"),
        ("prompt,evaluation_seed\n", "at least one prompt"),
    ],
)
def test_a_wrong_line_of_a_csv_is_named(tmp_path: Path, content: str, fix: str) -> None:
    (tmp_path / "p.csv").write_text(content)
    with pytest.raises(ManifestError) as refused:
        suite(tmp_path, groups={"general": [{"name": "x", "csv": "p.csv"}]})
    assert fix in str(refused.value)


@pytest.mark.parametrize("source", [{"csv": "{}"}, {"file": "{}"}])
@pytest.mark.parametrize("path", ["/proc/self/environ", "../outside.csv", "link.csv", "pipe.csv"])
def test_prompts_come_from_regular_files_below_the_suites_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: dict[str, str], path: str
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-secret")
    folder = tmp_path / "suites"
    folder.mkdir()
    (tmp_path / "outside.csv").write_text("prompt\nplanted-secret\n")
    (folder / "link.csv").symlink_to("../outside.csv")
    os.mkfifo(folder / "pipe.csv")
    named = dict.fromkeys(source, path)
    with pytest.raises(ManifestError, match=r"is elsewhere|not a regular file") as refused:
        suite(folder, groups={"general": [{"name": "x", **named}]})
    assert "planted-secret" not in str(refused.value)


def test_the_command_line_may_allow_another_folder(tmp_path: Path) -> None:
    folder = tmp_path / "suites"
    folder.mkdir()
    (tmp_path / "outside.csv").write_text("prompt\na cat\n")
    groups = {"general": [{"name": "x", "csv": "../outside.csv"}]}
    allow_files_from([tmp_path])
    try:
        found = suite_items(suite(folder, groups=groups))
    finally:
        allow_files_from([])
    assert len(found) == 1


def test_of_a_long_csv_no_more_is_read_than_the_limit_asks_for(tmp_path: Path) -> None:
    # What follows would be refused, were it read.
    (tmp_path / "p.csv").write_bytes(b"prompt\na cat\n" + b"a\n" * 50_000 + b"\xff\xff\n")
    groups = {"general": [{"name": "x", "csv": "p.csv", "limit": 1}]}
    assert len(suite_items(suite(tmp_path, groups=groups))) == 1
    with pytest.raises(ManifestError, match="can't decode"):
        suite(tmp_path, groups={"general": [{"name": "x", "csv": "p.csv"}]})
