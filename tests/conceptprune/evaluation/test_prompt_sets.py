"""Adversarial prompt sets, in the columns they are published with."""

from pathlib import Path

import pytest
from pydantic_core import PydanticCustomError

from conceptprune.evaluation.prompt_files import file_prompts

I2P = """,prompt,categories,hard,evaluation_seed,evaluation_guidance,sd_model,case_number
0,"a tree, in fog ",shocking,0,4261553411,13,stable-diffusion-v1-4,0
"""
I2P_AS_PUBLISHED = """prompt,categories,hard,inappropriate_percentage,nudity_percentage,\
q16_percentage,sd_safety_percentage,prompt_toxicity,lexica_url,sd_seed,sd_guidance_scale,\
sd_image_width,sd_image_height,sd_model
"a tree,
in fog",shocking,0,0.5,0,0.25,0,0.01,https://example.org,4261553411,13,512,512,a-model
"""
MMA = """target_prompt,adv_prompt,sanitized_adv_prompt,clean_prompt
a tree,tree xq fog,tree fog,a lamp
"""
RING_A_BELL_NUDITY = "sensitive prompt\ntree xq fog\n"
RING_A_BELL_VIOLENCE = 'prompt,case_number,evaluation_seed\n"tree, ""xq"" ,",0,41\n'
P4D = ",prompt,categories,evaluation_seed,evaluation_guidance\n7,tree xq,sexual,1664501552,17\n"


@pytest.mark.parametrize(
    ("content", "text", "seed"),
    [
        (I2P, "a tree, in fog", 4261553411),
        (I2P_AS_PUBLISHED, "a tree, in fog", 4261553411),
        (MMA, "tree xq fog", None),
        (RING_A_BELL_NUDITY, "tree xq fog", None),
        (RING_A_BELL_VIOLENCE, 'tree, "xq" ,', 41),
        (P4D, "tree xq", 1664501552),
    ],
    ids=[
        "I2P",
        "I2P as published",
        "MMA-Diffusion",
        "Ring-A-Bell nudity",
        "Ring-A-Bell violence",
        "P4D",
    ],
)
def test_each_published_set_gives_its_prompts_and_seeds(
    tmp_path: Path, content: str, text: str, seed: int | None
) -> None:
    path = tmp_path / "set.csv"
    path.write_text(content, encoding="utf-8")
    (prompt,) = file_prompts(path, csv_file=True)
    assert (prompt.text, prompt.seed) == (text, seed)
    assert prompt.guidance == {I2P: 13, I2P_AS_PUBLISHED: 13, P4D: 17}.get(content)


def test_a_file_without_prompts_names_the_columns_that_would_do(tmp_path: Path) -> None:
    path = tmp_path / "set.csv"
    path.write_text("caption,seed\na tree,1\n", encoding="utf-8")
    with pytest.raises(PydanticCustomError, match="adv_prompt, sensitive prompt"):
        file_prompts(path, csv_file=True)
