"""Files and JSON that others may have written: as they must be, or refused without waiting."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conceptprune.digest import canonical_json, digest_file
from conceptprune.strict_reading import DEEPEST, open_regular, plain_json, read_regular

TEXT = st.text(st.characters(codec=None))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
)


@given(content=JSON)
def test_what_is_read_can_be_printed_and_written_again(content: object) -> None:
    try:
        found = plain_json(json.dumps(content))
    except ValueError:
        return
    assert json.dumps(found, ensure_ascii=False).encode()
    assert plain_json(canonical_json(found)) == found


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"[NaN]", "NaN is no number"),
        (b"[1e999]", "inf"),
        (b"[1" + b"0" * 20 + b"]", "64 bits"),
        (b"[1" + b"0" * 9000 + b"]", "digits"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b'["\\ud800"]', "surrogates"),
        (b'{"\\udc00": 1}', "surrogates"),
        (b'["\xed\xa0\x80"]', "utf-8"),
        (b"\xff", "utf-8"),
        (b"[" * 100_000, "too deep"),
        (b"[" * (DEEPEST + 1) + b"]" * (DEEPEST + 1), "too deep"),
        (b"", "Expecting value"),
    ],
)
def test_json_that_a_reader_would_stumble_over_is_refused(text: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        plain_json(text)


def test_a_pipe_a_folder_and_too_many_bytes_are_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(ValueError, match="not a regular file"):
            open_regular(path)
        with pytest.raises(OSError, match="not a regular file"):
            digest_file(path)
    (tmp_path / "large").write_bytes(b"123")
    assert read_regular(tmp_path / "large", 3) == b"123"
    with pytest.raises(ValueError, match="at most 2 are read"):
        read_regular(tmp_path / "large", 2)


def test_of_a_file_that_has_more_than_it_says_no_more_is_read() -> None:
    # Files of this kind have a size of 0.
    assert len(read_regular(Path("/proc/self/status"), 10)) == 10
