"""Settings with which S3 cannot be used are told apart, and no credentials are shown."""

import logging
import pickle
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from conceptprune.errors import StoreError, UserError
from conceptprune.store import LostUnitError, Store
from tests.conceptprune.store.work import committed
from tests.support.s3_faults import FaultProxy, share
from tests.support.s3_server import (
    ACCESS_KEY,
    BUCKET,
    READER,
    SECRET_KEY,
    SeaweedServer,
    use_server,
)

pytestmark = pytest.mark.slow


# --- Stores that cannot be used -----------------------------------------------------------------


def missing_bucket(server: SeaweedServer, patch: pytest.MonkeyPatch) -> str:
    use_server(patch, server.endpoint)
    return "s3://no-such-bucket/x"


def forbidden(server: SeaweedServer, patch: pytest.MonkeyPatch) -> str:
    use_server(patch, server.endpoint, READER)
    return f"s3://{BUCKET}/x"


def wrong_secret(server: SeaweedServer, patch: pytest.MonkeyPatch) -> str:
    use_server(patch, server.endpoint, (ACCESS_KEY, SECRET_KEY + "x"))
    return f"s3://{BUCKET}/x"


def no_credentials(server: SeaweedServer, patch: pytest.MonkeyPatch) -> str:
    use_server(patch, server.endpoint)
    patch.delenv("AWS_ACCESS_KEY_ID")
    patch.delenv("AWS_SECRET_ACCESS_KEY")
    return f"s3://{BUCKET}/x"


def unreachable(server: SeaweedServer, patch: pytest.MonkeyPatch) -> str:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        use_server(patch, f"http://127.0.0.1:{unused.getsockname()[1]}")
    patch.setenv("CONCEPTPRUNE_STORE_DEADLINE", "0.5")
    return f"s3://{BUCKET}/x"


def keys_in_endpoint(server: SeaweedServer, patch: pytest.MonkeyPatch) -> str:
    use_server(patch, f"http://{ACCESS_KEY}:{SECRET_KEY}@127.0.0.1:{server.port}")
    patch.setenv("CONCEPTPRUNE_STORE_DEADLINE", "0.5")
    return f"s3://{BUCKET}/x"


def no_endpoint(server: SeaweedServer, patch: pytest.MonkeyPatch) -> str:
    use_server(patch, "nowhere")
    return f"s3://{BUCKET}/x"


@pytest.mark.parametrize(
    ("setup", "reason"),
    [
        (missing_bucket, "404 NoSuchBucket"),
        (forbidden, "403 AccessDenied"),
        (wrong_secret, "403 SignatureDoesNotMatch"),
        (no_credentials, "Unable to locate credentials"),
        (unreachable, "Could not connect"),
        (keys_in_endpoint, "credentials encoded in URL"),
        (no_endpoint, "Invalid endpoint: nowhere"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_store_that_cannot_be_used_fails_the_check_with_one_clear_message(
    server: SeaweedServer,
    monkeypatch: pytest.MonkeyPatch,
    setup: Callable[[SeaweedServer, pytest.MonkeyPatch], str],
    reason: str,
) -> None:
    uri = setup(server, monkeypatch)
    with pytest.raises(StoreError) as caught:
        Store(uri).check()
    message = str(caught.value)
    assert message.startswith(f"{uri}: cannot write probe/")
    assert reason in message
    assert SECRET_KEY not in message
    assert ACCESS_KEY not in message


def test_a_missing_bucket_is_no_empty_store(
    server: SeaweedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(missing_bucket(server, monkeypatch))
    with pytest.raises(StoreError, match="NoSuchBucket"):
        store.committed("mask")
    with pytest.raises(StoreError, match="NoSuchBucket"):
        store.find("mask", "k")


# --- Values that are refused ---------------------------------------------------------------------


def test_a_deadline_that_is_no_number_is_a_user_error(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text in ("soon", "nan", "-1", "inf"):
        monkeypatch.setenv("CONCEPTPRUNE_STORE_DEADLINE", text)
        with pytest.raises(UserError, match=f"CONCEPTPRUNE_STORE_DEADLINE={text}"):
            Store(uri)


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"AWS_PROFILE": "nobody-s"}, r"nobody-s.*; give AWS_PROFILE a name"),
        ({"AWS_ENDPOINT_URL": "127.0.0.1:9000"}, r"127\.0\.0\.1:9000; give AWS_ENDPOINT_URL as"),
        ({"AWS_SECRET_ACCESS_KEY": None}, "AWS_SECRET_ACCESS_KEY both, or neither"),
        (
            {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None},
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or",
        ),
    ],
)
def test_settings_that_s3_cannot_be_asked_with_are_named_with_the_fix(
    server: SeaweedServer,
    uri: str,
    variables: dict[str, str | None],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_server(monkeypatch, server.endpoint)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name, value in variables.items():
        monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    with pytest.raises(StoreError, match=told):
        Store(uri).check()


def test_https_asked_of_a_server_without_it_is_not_tried_again(
    server: SeaweedServer, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_server(monkeypatch, server.endpoint.replace("http:", "https:"))
    with pytest.raises(StoreError, match="write http:// in AWS_ENDPOINT_URL") as refused:
        Store(uri).check()
    assert "tried for" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("AWS_CA_BUNDLE", "/nowhere.pem", "AWS_CA_BUNDLE=/nowhere.pem: cannot be read; name a"),
        (
            "AWS_REQUEST_CHECKSUM_CALCULATION",
            "never",
            "AWS_REQUEST_CHECKSUM_CALCULATION=never: give when_required or when_supported",
        ),
    ],
)
def test_variables_with_unusable_values_are_refused_before_any_request(
    name: str, value: str, told: str, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=told):
        Store(uri)


# --- Credentials ---------------------------------------------------------------------------------


def test_credentials_show_in_no_representation_message_log_or_object(
    store: Store,
    proxy: FaultProxy,
    server: SeaweedServer,
    uri: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    proxy.choose = share(30, ["503", "drop"], seed=1)
    store.check()
    commit = committed(store, b"data")
    store.write_run_file("r1", "run.json", b"{}")
    server.client.pipe_file(f"{uri}/{commit.objects['mask'].path}", b"dat")
    shown = [repr(store), str(store), repr(pickle.dumps(store)), repr(vars(store))]
    with pytest.raises(LostUnitError) as lost:
        store.load(commit, "mask")
    shown.append(repr(lost.value))
    for setup in (wrong_secret, forbidden, unreachable, keys_in_endpoint):
        opened = Store(setup(server, monkeypatch))
        with pytest.raises(StoreError) as failed:
            opened.check()
        shown += [repr(failed.value), repr(pickle.dumps(failed.value)), repr(opened)]
    shown.append(caplog.text)
    assert "trying again" in caplog.text
    client = server.client
    shown += [repr((path, client.cat_file(path))) for path in client.find(uri)]
    for text in shown:
        for secret in (ACCESS_KEY, SECRET_KEY, *READER):
            assert secret not in text
