"""Configs of a model that somebody else wrote: one line, and no pipe is waited for."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conceptprune.errors import UserError
from conceptprune.models.components import read_index, read_json
from conceptprune.models.prompt import Prompt
from conceptprune.models.weights import find_checkpoint
from conceptprune.prompts.lengths import check_lengths
from conceptprune.prompts.pairs import PromptPair

LONG = Prompt(text="a cat by x, " * 50, seed=0)


@pytest.mark.parametrize("read", [lambda path: read_index(path.parent), read_json])
def test_a_pipe_in_the_place_of_a_config_is_not_waited_for(
    tmp_path: Path, read: Callable[[Path], Any]
) -> None:
    os.mkfifo(tmp_path / "model_index.json")
    with pytest.raises(UserError, match="not a regular file"):
        read(tmp_path / "model_index.json")


def test_a_pipe_in_the_place_of_an_index_of_shards_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors.index.json")
    with pytest.raises(UserError):
        find_checkpoint(tmp_path)


@pytest.mark.parametrize("limit", [float("nan"), -1, 0, True, "77", [77]])
def test_a_tokenizer_with_an_odd_limit_is_refused(tmp_path: Path, limit: object) -> None:
    write(tmp_path, ["transformers", "CLIPTokenizer"], model_max_length=limit)
    with pytest.raises(UserError, match="model_max_length is no number of tokens"):
        checked(tmp_path)


@pytest.mark.parametrize("limit", [10**30, float("inf"), None])
def test_a_limit_that_is_none_is_not_odd(tmp_path: Path, limit: object) -> None:
    write(tmp_path, ["transformers", "NoSuchTokenizer"], model_max_length=limit)
    with pytest.raises(UserError, match="no tokenizer that"):
        checked(tmp_path)


@pytest.mark.parametrize("entry", [["transformers"], ["transformers", 7], [1, 2, 3]])
def test_a_tokenizer_of_no_class_is_refused(tmp_path: Path, entry: list[Any]) -> None:
    write(tmp_path, entry)
    with pytest.raises(UserError, match="not a library and a class"):
        checked(tmp_path)


@pytest.mark.parametrize("kind", ["NoSuchTokenizer", "CLIPTokenizer", "dynamic_module_utils"])
def test_a_tokenizer_that_cannot_be_loaded_is_refused(tmp_path: Path, kind: str) -> None:
    write(tmp_path, ["transformers", kind], model_max_length=77)
    (tmp_path / "tokenizer" / "tokenizer.json").write_text('{"model": 7}')
    with pytest.raises(UserError, match="no tokenizer that"):
        checked(tmp_path)


def checked(folder: Path) -> None:
    check_lengths(folder, {"x": (PromptPair(base=LONG, target=LONG),)})


def write(folder: Path, entry: list[Any], **config: object) -> None:
    index = {"_class_name": "StableDiffusionPipeline", "tokenizer": entry}
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(config))
