"""Checkpoints of ESD from strangers: read as tensors of floats, or refused in one line."""

import io
import os
import pickle
import random
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from conceptprune.baselines.esd import read_esd
from conceptprune.errors import UserError


def saved(content: object, **options: object) -> bytes:
    out = io.BytesIO()
    torch.save(content, out, **options)
    return out.getvalue()


TENSORS = {"unet.mid.weight": torch.arange(6.0).reshape(2, 3), "out.bias": torch.ones(2)}
FORMS = {
    "zip": saved(TENSORS),
    "legacy": saved(TENSORS, _use_new_zipfile_serialization=False),
    "safetensors": save(TENSORS),
}


def compressed(data: bytes) -> bytes:
    """The same archive, packed: 100 MB of zeros would be 100 kB."""
    out = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(data)) as given,
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for entry in given.infolist():
            packed.writestr(entry.filename, given.read(entry))
    return out.getvalue()


def crafted(kind: str) -> bytes:
    weight = torch.ones(2, 3)
    match kind:
        case "compressed":
            return compressed(saved({"w": torch.zeros(1_000_000)}))
        case "expanded":
            return saved({"w": torch.ones(1).expand(10**6, 10**6)})
        case "expanded, legacy":
            content = {"w": torch.ones(1).expand(10**6, 10**6)}
            return saved(content, _use_new_zipfile_serialization=False)
        case "sparse":
            return saved({"w": weight.to_sparse()})
        case "quantised":
            return saved({"w": torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8)})
        case "meta":
            return saved({"w": torch.ones(2, device="meta")})
        case "nested twice":
            return saved({"a": {"b": {"c": weight}}})
        case "twice":
            return saved({"a.b": weight, "a": {"b": weight + 1}})
        case "a number for a name":
            return saved({1: weight})
        case "a list":
            return saved([weight])
        case "a text":
            return saved({"w": "weight"})
        case "a list in itself":
            own: list[object] = []
            own.append(own)
            return saved({"w": own})
        case "nothing":
            return b""
        case "no archive":
            return b"PK\x03\x04" + bytes(100)
        case "an archive of nothing":
            out = io.BytesIO()
            zipfile.ZipFile(out, "w").close()
            return out.getvalue()
        case "a plain pickle":
            return pickle.dumps({"w": [1.0]})
        case dtype:
            return saved({"w": weight.to(getattr(torch, dtype))})


KINDS = (
    *("compressed", "expanded", "expanded, legacy", "sparse", "quantised", "meta"),
    *("nested twice", "twice", "a number for a name", "a list", "a text", "a list in itself"),
    *("nothing", "no archive", "an archive of nothing", "a plain pickle"),
    *("int8", "int64", "bool", "complex64", "float8_e4m3fn"),
)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_a_crafted_checkpoint_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "esd.pt"
    path.write_bytes(crafted(kind))
    with pytest.raises(UserError) as refused:
        read_esd(path, "unet")
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("form", FORMS)
def test_a_checkpoint_is_read_by_parameter_names(form: str, tmp_path: Path) -> None:
    path = tmp_path / ("esd.safetensors" if form == "safetensors" else "esd.pt")
    path.write_bytes(FORMS[form])
    found = read_esd(path, "unet")
    assert set(found) == {"mid.weight", "out.bias"}
    assert torch.equal(found["mid.weight"], TENSORS["unet.mid.weight"])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", FORMS)
@given(seed=st.integers(0, 2**32))
def test_a_checkpoint_with_changed_or_missing_bytes_is_read_or_refused_and_nothing_else(
    form: str, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    chance = random.Random(seed)
    data = bytearray(FORMS[form])
    for _ in range(chance.randint(1, 8)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    if chance.random() < 0.3:
        del data[chance.randrange(len(data)) :]
    suffix = "safetensors" if form == "safetensors" else "pt"
    path = tmp_path_factory.getbasetemp() / f"mutated.{suffix}"
    path.write_bytes(data)
    error, found = "", {}
    try:
        found = read_esd(path, "unet")
    except UserError as refused:
        error = str(refused)
    assert "\n" not in error
    assert all(tensor.is_floating_point() for tensor in found.values())


def test_a_pipe_in_its_place_lets_nobody_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "esd.pt")
    with pytest.raises(UserError, match="not a regular file"):
        read_esd(tmp_path / "esd.pt", "unet")
