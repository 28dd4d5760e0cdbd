"""The mask file: one reader that takes what was written, and refuses everything else in a line."""

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from conceptprune import UserError, load_mask
from conceptprune.masks.mask import PruningMask
from conceptprune.masks.mask_file import named_concepts
from tests.conceptprune.masks.test_mask import make_mask, make_model

MASK = make_mask(make_model(), "a", [5, 7, 190], [])
WHOLE = MASK.to_bytes()
Header = dict[str, Any]
Tensors = dict[str, np.ndarray[Any, Any]]


def written(header: Header, tensors: Tensors) -> bytes:
    return safetensors.numpy.save(tensors, {"conceptprune": json.dumps(header)})


def parts() -> tuple[Header, Tensors]:
    """What is in the file, without its digest: as files of before were written."""
    size = int.from_bytes(WHOLE[:8], "little")
    header = json.loads(json.loads(WHOLE[8 : 8 + size])["__metadata__"]["conceptprune"])
    del header["sha256"]
    return header, safetensors.numpy.load(WHOLE)


def refused(data: bytes) -> str:
    with pytest.raises(UserError) as error:
        PruningMask.from_bytes(data)
    message = str(error.value)
    assert "\n" not in message
    assert "mask" in message
    return message


@settings(max_examples=300, deadline=None)
@given(bit=st.integers(0, 8 * len(WHOLE) - 1))
def test_any_flipped_bit_is_found(bit: int) -> None:
    data = bytearray(WHOLE)
    data[bit // 8] ^= 1 << bit % 8
    refused(bytes(data))


def test_every_truncation_and_every_addition_is_found() -> None:
    for length in range(0, len(WHOLE), 7):
        refused(WHOLE[:length])
    refused(WHOLE[:-1])
    refused(WHOLE + b"\0")


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=200))
def test_other_bytes_are_no_mask(data: bytes) -> None:
    refused(data)
    refused(len(data).to_bytes(8, "little") + data)


def renamed(header: Header, tensors: Tensors) -> None:
    header["concepts"] = ["someone else"]


@pytest.mark.parametrize(
    "change",
    [
        renamed,
        lambda header, tensors: header.update(component="transformer"),
        lambda header, tensors: header["provenance"].update(model="another"),
        lambda header, tensors: header["layers"]["0"].update(weight_digest="0" * 64),
        lambda header, tensors: tensors.update({"0": np.array([6, 2, 183], np.uint8)}),
    ],
)
def test_an_edit_that_keeps_the_form_is_found_by_the_digest(
    change: Callable[[Header, Tensors], None],
) -> None:
    header, tensors = parts()
    header["sha256"] = json.loads(
        json.loads(WHOLE[8 : 8 + int.from_bytes(WHOLE[:8], "little")])["__metadata__"][
            "conceptprune"
        ]
    )["sha256"]
    change(header, tensors)
    assert "its own digest" in refused(written(header, tensors))


def row(*values: int, dtype: type = np.uint8) -> np.ndarray[Any, Any]:
    return np.array(values, dtype)


def nested(levels: int) -> list[Any]:
    return [nested(levels - 1)] if levels else []


FAULTS: dict[str, tuple[Callable[[Header, Tensors], object], str]] = {
    "format": (lambda h, t: h.update(format="conceptprune.mask/9"), "mask of format"),
    "no format": (lambda h, t: h.pop("format"), "mask of format None"),
    "no concepts": (lambda h, t: h.update(concepts=[]), "concepts"),
    "a concept twice": (lambda h, t: h.update(concepts=["a", "a"]), "a concept is named twice"),
    "an empty name": (lambda h, t: h.update(concepts=[""]), r"concepts\.0"),
    "a number for a name": (lambda h, t: h.update(concepts=[1]), r"concepts\.0"),
    "no component": (lambda h, t: h.update(component=""), "component"),
    "no provenance": (lambda h, t: h.pop("provenance"), "provenance"),
    "not a number": (lambda h, t: h["provenance"].update(x=float("nan")), "NaN is no number"),
    "infinite": (lambda h, t: h["provenance"].update(x=1e999), "Infinity is no number"),
    "no character": (lambda h, t: h.update(concepts=["\ud800"]), "surrogates not allowed"),
    "layer of no character": (
        lambda h, t: h["layers"].update({"\udc80": h["layers"]["0"]}),
        "surrogates not allowed",
    ),
    "endless row": (lambda h, t: h["layers"]["0"].update(shape=[12, 10**30]), "64 bits"),
    "long row": (lambda h, t: h["layers"]["0"].update(shape=[12, 2**40]), r"layers\.0\.shape"),
    "kind of a list": (lambda h, t: h["provenance"].update(kind=["style"]), "kind"),
    "kind in Markdown": (lambda h, t: h["provenance"].update(kind="|<b>"), "kind"),
    "sides of text": (lambda h, t: h["provenance"].update(prompts_digest="x"), "prompts_digest"),
    "side of text": (
        lambda h, t: h["provenance"].update(prompts_digest={"target": "x", "base": "0" * 64}),
        r"prompts_digest\.target",
    ),
    "timesteps of text": (lambda h, t: h["provenance"].update(timesteps=["1"]), "timesteps"),
    "selection of text": (lambda h, t: h["provenance"].update(selection={"tau": "9"}), "selection"),
    "versions of lists": (lambda h, t: h["provenance"].update(versions={"torch": []}), "versions"),
    "model of lines": (lambda h, t: h["provenance"].update(model="a\nb"), "model"),
    "dtype of none": (lambda h, t: h["provenance"].update(dtype="nn"), "dtype"),
    "guidance of text": (lambda h, t: h["provenance"].update(collection={"guidance": "5"}), "coll"),
    "fusion of numbers": (lambda h, t: h["provenance"].update(fusion=7), "fusion"),
    "deep": (lambda h, t: h["provenance"].update(x=nested(160)), "too deep"),
    "unknown field": (lambda h, t: h.update(surprise=1), "surprise"),
    "no layers": (lambda h, t: (h.update(layers={}), t.clear()), "layers"),
    "a layer too many": (lambda h, t: h["layers"].pop("0"), "entries, and no shape of '0'"),
    "a layer too few": (lambda h, t: t.pop("0"), "no entries of '0'"),
    "shape of nothing": (lambda h, t: h["layers"]["0"].update(shape=[0, 16]), r"layers\.0\.shape"),
    "shape of one": (lambda h, t: h["layers"]["0"].update(shape=[192]), r"layers\.0\.shape"),
    "fractions": (lambda h, t: h["layers"]["0"].update(shape=[12.5, 16]), r"layers\.0\.shape"),
    "no digest": (lambda h, t: h["layers"]["0"].update(weight_digest="x"), "weight_digest"),
    "first column": (lambda h, t: h["layers"]["0"].update(first_column=16), "first_column"),
    "before it": (lambda h, t: h["layers"]["0"].update(first_column=6), "before column 6"),
    "dtype": (lambda h, t: t.update({"0": row(5, 2, dtype=np.int64)}), "must be a row of U8"),
    "two axes": (lambda h, t: t.update({"0": row(5, 2)[None]}), "must be a row of U8"),
    "outside": (lambda h, t: t.update({"0": row(192)}), "lies outside 12 x 16"),
    "far outside": (lambda h, t: t.update({"0": row(255, 255, 9)}), "lies outside 12 x 16"),
    "twice": (lambda h, t: t.update({"0": row(5, 0)}), "an entry occurs twice"),
    "no end": (lambda h, t: t.update({"0": row(5, 255)}), "end before the last"),
    "too many": (lambda h, t: t.update({"0": row(*[0] * 193)}), "more entries than"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_a_file_without_a_digest_is_named_too(fault: str) -> None:
    change, expected = FAULTS[fault]
    header, tensors = parts()
    change(header, tensors)
    with pytest.raises(UserError, match=expected) as error:
        PruningMask.from_bytes(written(header, tensors))
    assert f"{error.value}".encode()


def test_names_that_are_there_twice_are_no_mask() -> None:
    text = '{"format":"conceptprune.mask/1","format":"conceptprune.mask/1"}'
    data = safetensors.numpy.save({"0": row(5)}, {"conceptprune": text})
    assert "a name occurs twice" in refused(data)


def test_nesting_without_end_is_no_mask() -> None:
    data = safetensors.numpy.save({"0": row(5)}, {"conceptprune": "[" * 100_000})
    refused(data)


def test_a_file_of_before_is_read_and_keeps_its_identity() -> None:
    header, tensors = parts()
    for layer in header["layers"].values():
        del layer["rounded_digests"]
    # As version 0.1.0 wrote it.
    text = json.dumps(header, sort_keys=True, separators=(",", ":"))
    old = safetensors.numpy.save(tensors, {"conceptprune": text})
    mask = PruningMask.from_bytes(old)
    assert mask.to_bytes() == old
    assert [layer.entries.tolist() for layer in mask.layers.values()] == [[5, 7, 190], []]
    model = make_model()
    mask.apply(model)
    assert model[0].weight.view(-1)[190] == 0


def test_what_cannot_be_read_as_a_file_is_refused_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "mask.safetensors"
    with pytest.raises(UserError, match=r"cannot read the mask .*mask\.safetensors"):
        load_mask(path)
    with pytest.raises(UserError, match="not a regular file"):
        load_mask(tmp_path)
    path.write_bytes(WHOLE[:-3])
    with pytest.raises(UserError, match=r"mask\.safetensors: damaged mask"):
        load_mask(path)


def test_a_file_beyond_the_bound_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "mask.safetensors"
    path.touch()
    os.truncate(path, 1 << 40)  # Sparse: reading it would take all memory.
    with pytest.raises(UserError, match="at most 8,589,934,592 are read"):
        load_mask(path)


def test_the_beginning_of_a_file_says_whose_mask_it_is() -> None:
    header = 8 + int.from_bytes(WHOLE[:8], "little")
    for length in (header, header + 1, len(WHOLE)):
        assert named_concepts(WHOLE[:length], len(WHOLE)) == ("a",)
    assert named_concepts(WHOLE[: header - 1], len(WHOLE)) is None
    later = written({**parts()[0], "format": "conceptprune.mask/9"}, parts()[1])
    assert named_concepts(later, len(later)) is None


@given(data=st.binary(max_size=80), size=st.integers(0, 1 << 40))
def test_the_beginning_of_anything_else_says_nothing_or_is_refused(data: bytes, size: int) -> None:
    with contextlib.suppress(UserError):
        assert named_concepts(data, size) is None
