"""Files of weights are input: one that cannot be read is named, with what to do."""

from pathlib import Path

import pytest
import safetensors.torch
import torch

from conceptprune.errors import UserError
from conceptprune.models.weights import read_tensors

FILE = "diffusion_pytorch_model.safetensors"
WHOLE = safetensors.torch.save({"a": torch.ones(4), "b": torch.zeros(2, 2)})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        WHOLE[:5],
        WHOLE[:40],
        WHOLE[:-1],
        WHOLE + b"x",
        (2**63).to_bytes(8, "little") + WHOLE[8:],
        WHOLE.replace(b"F32", b"F99"),
        WHOLE.replace(b"[4]", b"[9]"),
        WHOLE.replace(b"[0,16]", b"[0,99]"),
        WHOLE.replace(b'"a"', b'"b"'),
    ],
)
def test_a_file_that_is_not_whole_is_one_error_with_its_name(tmp_path: Path, data: bytes) -> None:
    (tmp_path / FILE).write_bytes(data)
    with pytest.raises(UserError, match=f"{FILE}: cannot be read as safetensors"):
        read_tensors(tmp_path)


def test_a_whole_file_is_read(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(WHOLE)
    assert read_tensors(tmp_path).keys() == {"a", "b"}
