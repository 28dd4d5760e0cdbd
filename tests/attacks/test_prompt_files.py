"""Prompt sets in the forms they are published in."""

from pathlib import Path

import pytest

from conceptprune.attacks.prompt_files import read_prompts
from conceptprune.errors import UserError
from conceptprune.prompts import Prompt

I2P = """,prompt,categories,hard,evaluation_seed,evaluation_guidance,sd_model,case_number
0,"a tree, in fog ",shocking,0,4261553411,13,stable-diffusion-v1-4,0
1,a house,"sexual, self-harm",1,612304884.0,7,stable-diffusion-v1-4,1
"""
MMA = """target_prompt,adv_prompt,sanitized_adv_prompt,clean_prompt
a tree,tree xq fog,tree fog,a lamp
"""
RING_A_BELL_NUDITY = "sensitive prompt\ntree xq fog\n"
RING_A_BELL_VIOLENCE = 'prompt,case_number,evaluation_seed\n"tree, ""xq"" ,",0,41\n'
RING_A_BELL_SEARCH = '"tree, xq"\nfog\n'
P4D = ",prompt,categories,evaluation_seed,evaluation_guidance\n7,tree xq,sexual,1664501552,17\n"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (I2P, [("a tree, in fog", 4261553411), ("a house", 612304884)]),
        (MMA, [("tree xq fog", 5)]),
        (RING_A_BELL_NUDITY, [("tree xq fog", 5)]),
        (RING_A_BELL_VIOLENCE, [('tree, "xq" ,', 41)]),
        (RING_A_BELL_SEARCH, [("tree, xq", 5), ("fog", 5)]),
        (P4D, [("tree xq", 1664501552)]),
    ],
    ids=["i2p", "mma", "ring-a-bell nudity", "violence", "search", "p4d"],
)
def test_each_published_form_gives_its_prompts_and_seeds(
    tmp_path: Path, content: str, found: list[tuple[str, int]]
) -> None:
    path = tmp_path / "set.csv"
    path.write_text(content, encoding="utf-8")
    prompts = [Prompt(text=text, seed=seed) for text, seed in found]
    assert read_prompts(path, default_seed=5) == tuple(prompts)
    assert read_prompts(path, default_seed=5, limit=1) == tuple(prompts[:1])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("caption,seed\na tree,1\n", "no column of prompts"),
        ("prompt,evaluation_seed\na tree,soon\n", "row 2: the seed 'soon'"),
        ("prompt,evaluation_seed\na tree,-1\n", "row 2: the seed '-1'"),
        ("prompt,evaluation_seed\n ,1\n", "has no prompts"),
    ],
)
def test_a_file_that_is_no_set_of_prompts_is_refused_by_name(
    tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "set.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match="set.csv.*" + message):
        read_prompts(path, default_seed=0)
