"""What a delta or a mask says of its origin is read strictly, before a card repeats it."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import safetensors.torch
import torch

from conceptprune.checkpoints.card import Exported, metadata_json, model_card
from conceptprune.checkpoints.delta_header import DeltaHeader, begun_header
from conceptprune.checkpoints.delta_reader import read_delta
from conceptprune.checkpoints.rewording_card import Rewording
from conceptprune.errors import UserError
from tests.conceptprune.masks.test_mask import make_mask, make_model

HEADER = {
    "format": "conceptprune.delta/1",
    "component": "unet",
    "concepts": ["Ada"],
    "mask": None,
    "provenance": {},
}
MADE: dict[str, Any] = {
    "model": "studio",
    "settings": {"base": 1.0},
    "retained": ["Eve"],
    "versions": {"torch": "2.0"},
}
SAID: dict[str, Any] = {
    "model": "studio",
    "versions": {"torch": "2.0"},
    "site": "ffn_out",
    "kind": "style",
    "timesteps": [981, 961],
    "selector": "conceptprune",
    "selection": {"sparsity": 0.01, "tau": 9},
    "collection": {"guidance": 5.0},
    "seed": 0,
    "prompts_digest": {"target": "0" * 64, "base": "1" * 64},
}


def delta(**changes: Any) -> bytes:
    text = json.dumps({**HEADER, **changes})
    return safetensors.torch.save({"x": torch.ones(1)}, {"conceptprune": text})


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"concepts": ["\ud800"]}, "surrogates"),
        ({"provenance": {"\udc00": 1}}, "surrogates"),
        ({"provenance": {"x": float("nan")}}, "NaN is no number"),
        ({"provenance": {"x": 1e999}}, "Infinity is no number"),
        ({"provenance": {"x": 10**30}}, "64 bits"),
        ({"concepts": "Ada"}, "concepts"),
    ],
)
def test_a_deltas_header_is_refused_in_a_line(changes: Mapping[str, Any], why: str) -> None:
    for read in (begun_header, read_delta):
        with pytest.raises(UserError, match=why) as error:
            read(delta(**changes))
        assert "\n" not in f"{error.value}"
        assert f"{error.value}".encode()


def rewording(provenance: dict[str, Any]) -> Rewording:
    return Rewording(
        form="delta",
        header=DeltaHeader.model_validate_json(json.dumps({**HEADER, "provenance": provenance})),
        digest="0" * 64,
        kinds={"Ada": "style"},
        num_tensors=1,
        entries=1,
        denoiser_weights=10,
        model_digest="1" * 64,
        pipeline="StableDiffusionPipeline",
        file="x.safetensors",
    )


def test_a_rewordings_card_says_what_its_file_says() -> None:
    assert "`Eve`" in rewording(MADE).card()
    assert json.loads(rewording(MADE).metadata_json())["retained"] == ["Eve"]


@pytest.mark.parametrize(
    "changes",
    [
        {"settings": {"base": "1"}},
        {"settings": {"base": {}}},
        {"settings": {"| <b>": 1}},
        {"retained": [1]},
        {"retained": {}},
        {"versions": {"torch": [1]}},
        {"versions": {"torch": "2\n# heading"}},
        {"model": "a\n---\nb"},
        {"model": None},
        {"revision": 7},
    ],
)
def test_no_card_is_written_of_a_rewording_whose_origin_is_odd(changes: dict[str, Any]) -> None:
    odd = rewording({**MADE, **changes})
    with pytest.raises(UserError, match=f"how it was made: {next(iter(changes))}"):
        odd.card()


def exported(provenance: dict[str, Any]) -> Exported:
    mask = replace(make_mask(make_model(), "Ada", [5], []), provenance=provenance)
    return Exported(
        form="mask",
        mask=mask,
        parts=[mask],
        model_digest="1" * 64,
        pipeline="StableDiffusionPipeline",
        denoiser_weights=1000,
        file="x.safetensors",
    )


def test_a_card_says_what_the_mask_says() -> None:
    assert "sparsity 0.01" in model_card(exported(SAID))
    assert json.loads(metadata_json(exported(SAID)))["revision"] is None


@pytest.mark.parametrize("lacking", SAID)
def test_no_card_is_written_of_a_mask_that_does_not_say_how_it_was_made(lacking: str) -> None:
    said = {name: value for name, value in SAID.items() if name != lacking}
    for provenance in (said, {**said, lacking: None}):
        with pytest.raises(UserError, match=f"no {lacking}"):
            exported(provenance)
