"""What is a secret, by where it is kept or by its looks; and what is none."""

from pathlib import Path

import pytest

from conceptprune.redaction import redacted, without_secrets


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("AWS_SECRET_ACCESS_KEY", "abc", "abc"),
        ("AWS_SESSION_TOKEN", "session-planted", "session-planted"),
        ("HF_TOKEN", "planted-hub-token", "planted-hub-token"),
        ("HF_ENDPOINT", "https://me:pl%2Fanted-password@hub.example", "pl/anted-password"),
        ("HTTPS_PROXY", "http://me:planted-password@proxy:3128", "planted-password"),
        ("RAY_AUTH_TOKEN", "planted-ray-token", "planted-ray-token"),
        ("AZURE_STORAGE_ACCOUNT_KEY", "planted+key/with==", "planted%2Bkey%2Fwith%3D%3D"),
        ("DB_PASSWORD", "planted password", "planted password"),
    ],
)
def test_a_secret_of_the_environment_is_taken_out_in_each_of_its_forms(
    name: str, value: str, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert secret not in redacted(f"the service said: no such key {secret}, for {value}")
    assert value not in redacted(f"for {value}")


@pytest.mark.parametrize(
    ("variable", "content", "secret"),
    [
        (
            "AWS_SHARED_CREDENTIALS_FILE",
            "[night]\naws_secret_access_key = planted/of+profile\n",
            "planted/of+profile",
        ),
        (
            "AWS_CONFIG_FILE",
            "[profile x]\naws_session_token=planted-of-config\n",
            "planted-of-config",
        ),
        ("RAY_AUTH_TOKEN_PATH", "planted-token-in-a-file\n", "planted-token-in-a-file"),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", "planted-web-identity", "planted-web-identity"),
        ("NETRC", "machine h login me password planted-of-netrc\n", "planted-of-netrc"),
        (
            "GOOGLE_APPLICATION_CREDENTIALS",
            '{"type": "service_account", "private_key": "planted-private-key"}',
            "planted-private-key",
        ),
    ],
)
def test_a_secret_in_a_file_that_this_process_may_read_is_taken_out_also_after_it_changed(
    variable: str, content: str, secret: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "secrets"
    path.write_text(content)
    monkeypatch.setenv(variable, str(path))
    assert secret not in redacted(f"refused: {secret}")
    path.write_text(content.replace("planted", "another-planted"))
    assert "another" not in redacted(f"refused: {secret.replace('planted', 'another-planted')}")


@pytest.mark.parametrize(
    "secret",
    [
        "AKIAIOSFODNN7EXAMPLE",
        "ASIAIOSFODNN7EXAMPLE",
        "hf_abcdefghijklmnopqrstuv",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJwbGFudGVkIn0.c2lnbmF0dXJl",
        "0123456789abcdef0123456789abcdef",
    ],
)
def test_what_looks_like_a_secret_is_taken_out_wherever_it_comes_from(secret: str) -> None:
    text = f"Authorization: Bearer {secret}" if secret.startswith("0") else f"no key {secret}."
    assert secret not in redacted(text)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TOKENIZERS_PARALLELISM", "parallelism"),
        ("AWS_KMS_KEY_ID", "arn-of-a-key-that-all-may-know"),
        ("RAY_AUTH_MODE", "token"),
        ("SOME_TOKEN", "none"),
    ],
)
def test_what_is_no_secret_stays(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    assert redacted(f"it is {value}") == f"it is {value}"


def test_digests_and_paths_stay() -> None:
    text = f"objects/mask/model=m/{'0123456789abcdef' * 4}.safetensors of /tmp/x, 3 of 4 done"
    assert redacted(text) == text


def test_an_error_is_the_same_without_its_secrets_and_what_it_came_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "planted-hub-token")
    try:
        try:
            raise KeyError("planted-hub-token")
        except KeyError as cause:
            raise OSError(5, "refused planted-hub-token", "planted-hub-token.json") from cause
    except OSError as error:
        clean = without_secrets(error)
    assert isinstance(clean, OSError)
    assert "planted" not in f"{clean} {clean.args} {clean.filename}"
    assert clean.__cause__ is clean.__context__ is None
