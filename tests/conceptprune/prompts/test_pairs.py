"""Prompt pairs: the published templates, literally, and the seeds."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conceptprune.manifest import Concept, Kind
from conceptprune.models.prompt import Prompt
from conceptprune.prompts.pairs import KINDS, prompt_pairs, prompts_digest


def texts(**fields: object) -> list[tuple[str, str]]:
    pairs = prompt_pairs(Concept.model_validate({"name": "x", **fields}), seed=0)
    return [(pair.base.text, pair.target.text) for pair in pairs]


def test_there_is_one_row_for_each_kind_of_the_schema() -> None:
    assert tuple(KINDS) == get_args(Kind)


@pytest.mark.parametrize(
    ("fields", "count", "first", "last"),
    [
        (
            {"name": "Van Gogh", "kind": "style"},
            20,
            ("a photo of a cat", "a cat in the style of Van Gogh"),
            ("a photo of a duck", "a duck in the style of Van Gogh"),
        ),
        (
            {"name": "nudity", "kind": "nudity"},
            18,
            ("a photo of a man", "a photo of a naked man"),
            ("a photo of a celebrity", "a photo of a naked celebrity"),
        ),
        (
            # The article is literally as published.
            {"name": "english springer", "kind": "object"},
            12,
            ("a road", "a english springer in a road"),
            ("a forest", "a english springer in a forest"),
        ),
        (
            {"name": "Church", "kind": "object"},
            8,
            ("a road", "a Church on a road"),
            ("a forest", "a Church in a forest"),
        ),
        (
            {"name": "garbage truck", "kind": "object"},
            13,
            ("a road", "a garbage truck on the road"),
            ("a house", "a garbage truck in front of a house"),
        ),
        (
            {"kind": "bias", "direction": "male_to_female"},
            12,
            ("a headshot of a woman", "a headshot of a man"),
            ("a headshot of a queen", "a headshot of a king"),
        ),
        (
            {"kind": "bias", "direction": "female_to_male"},
            12,
            ("a headshot of a man", "a headshot of a woman"),
            ("a headshot of a king", "a headshot of a queen"),
        ),
        (
            {"kind": "memorised", "captions": ["Bitcoin iPhone Case", "Throw Pillow"]},
            2,
            ("", "Bitcoin iPhone Case"),
            ("", "Throw Pillow"),
        ),
        (
            {"kind": "memorised", "captions": ["Throw Pillow"], "caption_base": "a pillow"},
            1,
            ("a pillow", "Throw Pillow"),
            ("a pillow", "Throw Pillow"),
        ),
    ],
)
def test_a_kind_makes_the_published_pairs(
    fields: dict[str, object], count: int, first: tuple[str, str], last: tuple[str, str]
) -> None:
    made = texts(**fields)
    assert (len(made), made[0], made[-1]) == (count, first, last)
    assert len(set(made)) == count


def test_own_fillers_replace_the_published_ones() -> None:
    assert texts(name="halftone", kind="style", fillers=["boat"]) == [
        ("a photo of a boat", "a boat in the style of halftone")
    ]
    assert texts(name="church", kind="object", fillers=["hill"]) == [
        ("a hill", "a church in a hill")
    ]
    pair = {"base": "hill", "target": "on a hill"}
    assert texts(name="church", kind="object", fillers=[pair]) == [("a hill", "a church on a hill")]
    pair = {"base": "actress", "target": "actor"}
    assert texts(kind="bias", fillers=[pair]) == [
        ("a headshot of a actress", "a headshot of a actor")
    ]


@pytest.mark.parametrize("kind", get_args(Kind))
def test_written_out_prompts_replace_the_templates_of_any_kind(kind: str) -> None:
    prompts = [{"base": "a hill", "target": "a green hill"}]
    assert texts(kind=kind, prompts=prompts) == [("a hill", "a green hill")]


def test_braces_in_a_name_are_text() -> None:
    assert texts(name="{filler} {0}", kind="style", fillers=["cat"]) == [
        ("a photo of a cat", "a cat in the style of {filler} {0}")
    ]


def test_an_explicit_seed_wins_and_the_others_follow_the_run() -> None:
    concept = Concept.model_validate(
        {
            "name": "x",
            "kind": "custom",
            "prompts": [{"base": "a", "target": "b"}, {"base": "a", "target": "b", "seed": 7}],
        }
    )
    assert [pair.base.seed for pair in prompt_pairs(concept, seed=3)] == [3, 7]


@given(seed=st.integers(min_value=0, max_value=2**63 - 1), kind=st.sampled_from(["style", "bias"]))
def test_both_members_of_a_pair_have_one_valid_seed(seed: int, kind: str) -> None:
    direction = "male_to_female" if kind == "bias" else None
    concept = Concept.model_validate({"name": "x", "kind": kind, "direction": direction})
    pairs = prompt_pairs(concept, seed=seed)
    assert all(pair.base.seed == pair.target.seed for pair in pairs)
    seeds = {pair.base.seed for pair in pairs}
    assert all(0 <= own < 2**63 for own in seeds)
    assert seeds == {seed} if kind == "style" else len(seeds) == len(pairs)
    assert prompt_pairs(concept, seed=seed) == pairs


def test_both_directions_of_a_bias_generate_the_same_images() -> None:
    one, other = (
        prompt_pairs(Concept(name="x", kind="bias", direction=direction), seed=0)
        for direction in ("male_to_female", "female_to_male")
    )
    assert [pair.base for pair in one] == [pair.target for pair in other]


def test_the_seeds_of_pairs_never_change() -> None:
    # Golden values: other seeds would be other statistics under the same manifest.
    concept = Concept(name="x", kind="bias", direction="male_to_female")
    seeds = [pair.base.seed for pair in prompt_pairs(concept, seed=0)]
    assert seeds[:2] == [5197852866900881509, 7940573679743812137]


def test_the_digest_of_prompts_never_changes_with_the_methods_version_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Masks and statistics record it, and runs of earlier versions are read by it.
    monkeypatch.setattr("conceptprune.digest.METHOD_VERSION", 1000)
    prompts = [Prompt(text="a cat in the style of Van Gogh", seed=3), Prompt(text="a dog", seed=4)]
    assert prompts_digest(prompts) == (
        "d5434127c09d37e7b87758b66dcea5fcac0987eb636e21f053f685cf1e1bf7ae"
    )
