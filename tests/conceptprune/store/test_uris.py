"""What names a store: a misspelt URI is no folder's name, and one with credentials is none."""

from pathlib import Path

import pytest

from conceptprune.errors import StoreError, UserError
from conceptprune.redaction import redacted
from conceptprune.store import Store
from tests.conceptprune.store.work import Lake, commit


def test_an_unknown_kind_of_store_is_a_user_error() -> None:
    with pytest.raises(UserError, match="--store nosuch://x"):
        Store("nosuch://x")


def test_an_error_of_a_library_behind_fsspec_is_a_store_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> bytes:
        raise LookupError("403 no access for x://me:secret@host")

    monkeypatch.setattr(Lake, "cat_file", refuse)
    with pytest.raises(StoreError, match=r"lake://x: cannot read .*LookupError: '?403") as caught:
        Store("lake://x").find("mask", "k")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://key:secret@bucket/x",
        "s3://secret@bucket",
        "simplecache::s3://k:secret@b/x",
        "s3://key:sec/secret@bucket/x",
        "s3://key/sec:secret@bucket",
        "s3://key:secret/x",
        "s3://bucket/x?secret=secret",
    ],
)
def test_a_uri_with_credentials_is_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(UserError, match="holds credentials") as caught:
        Store(uri)
    assert uri not in str(caught.value)
    assert "secret" not in redacted(f"cannot read {uri}: refused")


@pytest.mark.parametrize(
    "text", ["memory://host:8020/a", "memory://bucket/a:b", "memory://bucket: refused, me@home"]
)
def test_ports_and_paths_are_no_credentials(text: str) -> None:
    assert redacted(text) == text


def test_a_folder_may_have_an_at_sign(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "me@home"))
    assert store.read(commit(store, b"data")) == b"data"


MISSPELT = [
    ("~nobody-has-this-name/x", "knows no home of that user"),
    ("", "--store is empty; give a folder, or s3://bucket/prefix"),
    ("  ", "--store is empty"),
    ("s3:/bucket/x", "write s3://bucket/x"),
    ("s3:bucket/x", "write s3://bucket/x"),
    ("S3://bucket/x", "write s3://bucket/x"),
    ("s3//bucket/x", "write s3://bucket/x"),
    ("s3:///bucket/x", "write s3://bucket/x"),
    ("s3:\\\\bucket\\x", "write s3://bucket/x"),
    (" s3://bucket/x", "write s3://bucket/x"),
    ("s3://bucket/x\n", "write s3://bucket/x"),
    ("gs:/bucket/x", "write gs://bucket/x"),
    ("s3://bucket/a/../x", "give the prefix without them"),
    ("s3://", "names no bucket; give a folder, or s3://bucket/prefix"),
    ("file:/tmp/x", "write /tmp/x"),
    ("memory://x", "is held by one process"),
    ("memory:x", "is held by one process"),
    ("https://bucket.s3.amazonaws.com/x", "can only be read; .* AWS_ENDPOINT_URL"),
    ("simplecache::s3://bucket/x", "a chain of file systems cannot be a store"),
    ("reference://x", "--store reference://x"),
    ("arn:aws:s3:::bucket/x", "the ARN of a bucket; write s3://bucket/x"),
    ("s3://arn:aws:s3:::bucket/x/*", "the ARN of a bucket; write s3://bucket/x$"),
    (
        "s3://arn:aws:s3:eu-west-1:123456789012:accesspoint/mine/x",
        "the ARN of an access point; give the alias .*-s3alias/",
    ),
    ("arn:aws:s3::123456789012:accesspoint/mine.mrap", "the ARN of an access point"),
    ("arn:aws-cn:s3-outposts:cn-north-1:123456789012:outpost/op-1", "this is an ARN"),
]


@pytest.mark.parametrize(("uri", "message"), MISSPELT)
def test_a_misspelt_uri_is_no_folders_name_and_its_right_spelling_is_given(
    uri: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        Store(uri)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "uri", ["s3:/key:secret@bucket/x", "S3://key:secret@bucket", " s3://key:secret@bucket/x"]
)
def test_a_misspelt_uri_with_credentials_is_not_repeated_either(uri: str) -> None:
    with pytest.raises(UserError, match="holds credentials") as caught:
        Store(uri)
    assert "secret@" not in str(caught.value)


@pytest.mark.parametrize("uri", ["s3", "data/x", "a:b", "./s3:/x", "file:///tmp/x", "s3a://b/x"])
def test_other_names_are_folders_and_buckets_as_ever(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Store(uri).uri == uri
