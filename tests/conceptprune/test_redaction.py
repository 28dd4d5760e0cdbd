"""What is a secret, by where it is kept or by its looks; and what is none."""

import base64
import html
import json
import re
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest

from conceptprune.redaction import redacted, shortened, without_secrets


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


SECRET = 'plan/ted+of "night" \u03bb-0123456789'
WRITTEN = [
    SECRET,
    quote(SECRET),
    quote(SECRET, safe=""),
    quote_plus(SECRET),
    re.sub("%..", lambda code: code[0].lower(), quote(SECRET, safe="")),
    json.dumps(SECRET),
    json.dumps(SECRET, ensure_ascii=False),
    repr(SECRET),
    ascii(SECRET),
    html.escape(SECRET),
    SECRET.encode("unicode_escape").decode(),
    "".join(f"\\u{ord(char):04x}" for char in SECRET),
    SECRET.encode().hex(),
    *(base64.b64encode(f"{user}:{SECRET}".encode()).decode() for user in ("a", "me", "you")),
    base64.urlsafe_b64encode(f"me:{SECRET}/?".encode()).decode(),
]


@pytest.mark.parametrize("written", WRITTEN)
def test_a_secret_is_known_as_programs_write_it_and_when_somebody_cut_it_off(
    written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", SECRET)
    clean = redacted(f"it said {written}, and no more")
    assert "MY_TOKEN" in clean
    pieces = {written[start : start + 8] for start in range(4, len(written) - 12)}
    assert not [piece for piece in pieces if piece in clean]
    for most in range(20, len(written) - 2):
        # As whoever shortens a message does.
        for part in (written[:most], written[-most:]):
            told = redacted(part)
            assert not [piece for piece in pieces if piece in told], told


def test_what_is_shortened_is_redacted_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "planted-0123456789")
    assert shortened("it is planted-0123456789", 12) == "it is <MY..."
    assert shortened("a" * 20, 20) == "a" * 20
    assert shortened("a" * 21, 20) == "a" * 17 + "..."


@pytest.mark.parametrize(
    "text",
    [
        "DefaultEndpointsProtocol=https;AccountName=a;AccountKey={};EndpointSuffix=x",
        "Endpoint=sb://x;SharedAccessKeyName=n;SharedAccessKey={}",
        "BlobEndpoint=x;SharedAccessSignature={}",
        "x-amz-security-token: {}",
        "X-Api-Key: {}",
        "PGPASSWORD={} psql",
        "MYSQL_PWD='{}' mysql",
        'password = "{}"',
        '{{"client_secret": "{}", "a": 1}}',
        "{{'refresh_token': '{}'}}",
        "Server=x;Password={};",
        "se=2026&sig={}&sp=r",
    ],
)
def test_what_stands_under_a_secrets_name_is_taken_out(text: str) -> None:
    told = redacted(text.format("planted/0123456789=="))
    assert "planted" not in told
    # All that is not secret stays.
    assert told == text.format("<hidden>")


@pytest.mark.parametrize(
    "text",
    [
        "AWS_SECRET_ACCESS_KEY: is not set",
        "77 tokens: of which 3 are lost",
        "MaskUnit(key='0123456789abcdef', kind='mask')",
        "RAY_AUTH_TOKEN_PATH=/run/token",
        "TOKENIZERS_PARALLELISM=false",
        "concepts[0].kind: found: stile",
        "max_token=77, pad_token=<pad>",
    ],
)
def test_a_word_that_only_names_secrets_stays(text: str) -> None:
    assert redacted(text) == text


def test_a_long_text_is_redacted_in_little_time() -> None:
    for text in ("a." * 200_000, "a-" * 200_000, "x " * 200_000, "password" + " " * 400_000):
        assert redacted(text) == text


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
