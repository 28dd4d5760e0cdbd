"""A judge in a folder: its classes are the labels, and a folder of another network is refused."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from conceptprune.errors import UserError
from conceptprune.evaluation.scorers.base import Case
from conceptprune.evaluation.scorers.judge import JudgeSettings
from conceptprune.evaluation.scorers.judge_network import JudgeNetwork
from conceptprune.models.images import Image
from conceptprune.studio.judge import WEIGHTS, Judge

DESCRIBED: dict[str, Any] = {
    "format": "conceptprune.judge/1",
    "side": 64,
    "fine": [[24, 2], [48, 2], [64, 1], [96, 2]],
    "coarse": [[128, 2]],
    "style": ["photo", *(f"style {index}" for index in range(1, 17))],
    "object": [f"thing {index}" for index in range(12)],
}


def settings_of(folder: Path) -> JudgeSettings:
    return JudgeSettings(scorer="judge", weights=str(folder))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The studio's judge in the form of a folder."""
    names = {"coarse.": "coarse.0.", "artist_head.": "look_head."}
    tensors = {}
    for name, tensor in load_file(WEIGHTS).items():
        for old, new in names.items():
            if name.startswith(old):
                name = new + name.removeprefix(old)
        tensors[name] = tensor
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "judge.json").write_text(json.dumps(DESCRIBED))
    return tmp_path


@pytest.fixture(scope="module")
def images() -> list[Image]:
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (24, 8, 8, 3), np.uint8)
    return list(blocks.repeat(8, 1).repeat(8, 2))


def test_the_studio_s_weights_in_a_folder_see_what_the_studio_s_judge_sees(
    folder: Path, images: list[Image]
) -> None:
    seen = Judge.load().verdicts(np.stack(images))
    settings = settings_of(folder)
    cases = [
        Case(text="", seed=0, labels=(("object", f"Thing {thing}"), ("style", f"style {artist}")))
        for thing, artist in zip(seen.thing, np.maximum(seen.artist, 1), strict=True)
    ]
    readings = settings.load("cpu").score(images, cases, None)
    things = [each for each in readings if each.metric == "object accuracy"]
    styles = [each for each in readings if each.metric == "style accuracy"]
    assert [each.seen for each in things] == [f"thing {index}" for index in seen.thing]
    assert [each.value for each in things] == [1.0] * len(images)
    assert [each.seen for each in styles] == [DESCRIBED["style"][index] for index in seen.artist]
    assert [each.value for each in styles] == [float(index > 0) for index in seen.artist]
    assert len({each.seen for each in things}) > 1


def test_without_a_style_s_label_the_style_of_none_is_wanted_and_of_an_unknown_one_nothing_is_said(
    folder: Path, images: list[Image]
) -> None:
    artist = Judge.load().verdicts(np.stack(images)).artist
    scorer = settings_of(folder).load("cpu")
    plain = [Case(text="", seed=0)] * len(images)
    readings = scorer.score(images, plain, None)
    assert {each.metric for each in readings} == {"style accuracy"}
    assert [each.value for each in readings] == [float(index == 0) for index in artist]
    unknown = [Case(text="", seed=0, labels=(("style", "nobody"),))] * len(images)
    assert {each.value for each in scorer.score(images, unknown, None)} == {None}


def test_the_spread_of_fine_features_can_be_part_of_a_judge(folder: Path) -> None:
    (folder / "judge.json").write_text(json.dumps({**DESCRIBED, "spread": True}))
    network = JudgeNetwork(settings_of(folder).described())
    save_file(network.state_dict(), folder / "model.safetensors")
    loaded = settings_of(folder).network()
    pixels = torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)
    assert torch.equal(loaded(pixels)[0], network.eval()(pixels)[0])
    assert network.look_head.in_features == 128 + 2 * 96


def test_the_facts_follow_the_weights_and_the_names(folder: Path) -> None:
    before = settings_of(folder).check()
    renamed = {**DESCRIBED, "object": [*DESCRIBED["object"][:-1], "renamed"]}
    (folder / "judge.json").write_text(json.dumps(renamed))
    assert settings_of(folder).check().weights != before.weights


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"object": ["cat"]}, r"model.safetensors: not the network .* thing_head"),
        ({"style": []}, r"judge.json: style: "),
        ({"format": "conceptprune.judge/2"}, r"judge.json: format: "),
        ({"pickled": True}, r"judge.json: pickled: "),
        ({"side": 10**30}, r"judge.json: side: "),
        ({"fine": [[10**12, 1]]}, r"judge.json: fine\.0\.0: "),
        # Its network would take terabytes.
        ({"side": 4096, "fine": [[60_000, 1]] * 200}, r"not the network"),
    ],
)
def test_a_folder_that_is_no_such_judge_is_refused_before_any_work(
    folder: Path, changes: dict[str, Any], said: str
) -> None:
    (folder / "judge.json").write_text(json.dumps({**DESCRIBED, **changes}))
    with pytest.raises(UserError, match=said) as refused:
        settings_of(folder).check()
    assert "\n" not in str(refused.value)


def test_a_pipe_in_the_place_of_the_description_is_not_waited_for(folder: Path) -> None:
    (folder / "judge.json").unlink()
    os.mkfifo(folder / "judge.json")
    with pytest.raises(UserError, match=r"judge\.json: not a regular file"):
        settings_of(folder).check()


def test_a_folder_without_a_judge_and_images_of_another_size_are_refused(
    folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"judge\.json: No such file"):
        settings_of(tmp_path / "nothing").check()
    scorer = settings_of(folder).load("cpu")
    with pytest.raises(UserError, match="images of 64 x 64 pixels, not 32 x 16"):
        scorer.score([np.zeros((16, 32, 3), np.uint8)], [Case(text="", seed=0)], None)
