"""Secrets stay out of whatever is written: errors, logs, ledgers, pages, records of jobs.

`redacted` is called where text leaves: by formatters of logs, by what prints, by the worker that
reports an error, by the ledger. It knows the values that this process holds or could read, of the
environment and of the files where AWS, Hugging Face, Ray and netrc keep theirs; and what is secret
by its looks, wherever it comes from: a service may echo what came with a machine's role.
"""

import configparser
import json
import os
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from urllib.parse import quote, unquote

SHORTEST = 8
"""Characters of a secret: shorter values, such as `none`, are words of ordinary text."""
MOST_BYTES = 1 << 20
"""Of a file with secrets; larger ones are something else."""

_AWS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_SECRET_WORDS = frozenset(
    {"SECRET", "SECRETS", "TOKEN", "TOKENS", "PASSWORD", "PASSWD", "PASSPHRASE", "PASS"}
    | {"KEY", "KEYS", "APIKEY", "CREDENTIAL", "CREDENTIALS", "SAS"}
)
_FILE_WORDS = frozenset({"FILE", "PATH", "CREDENTIALS"})
_OTHER_WORDS = frozenset({"MODE", "DIR", "URI", "ID", "NAME", "REGION", "TYPE"})
"""Last words of variables that have a secret's name and hold none: AWS_KMS_KEY_ID."""

_USER_INFO = re.compile(
    r"://(?:"
    r"\S*:\S*@"  # A secret may have slashes in it.
    r"|[^/\s]*@"
    r"|[^/\s:]*:(?!\d+\b)[^/\s]+"  # What follows a colon and is no port.
    r")"
)
_QUERY = re.compile(r"(://[^\s?]*)\?[^\s\"']*")
_BY_LOOKS = (
    (re.compile(r"\b(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{12,}\b"), "<access key>"),
    (re.compile(r"\bhf_[A-Za-z0-9]{16,}\b"), "<token>"),
    (re.compile(r"\bgh[opsur]_[A-Za-z0-9]{20,}\b"), "<token>"),
    (re.compile(r"\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*"), "<token>"),
    (re.compile(r"\b(Bearer|Basic)\s+[\w.~+/=-]{8,}", re.IGNORECASE), r"\1 <token>"),
    (re.compile(r"\b(Signature|X-Amz-[\w-]+)=[^\s&,\"']+", re.IGNORECASE), r"\1=<hidden>"),
    (
        re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*-----|\Z)", re.DOTALL),
        "<private key>",
    ),
)


def holds_credentials(uri: str) -> bool:
    """Whether a URI has a place where credentials are given, with anything in it."""
    return bool(_USER_INFO.search(uri) or _QUERY.search(uri))


def redacted(text: str) -> str:
    """Text without the secrets of this process, those within URLs, and what looks like one."""
    for value, name in _held().items():
        if value in text:
            text = text.replace(value, f"<{name}>")
    text = _USER_INFO.sub("://<credentials>@", text)
    text = _QUERY.sub(r"\1?<query>", text)
    for pattern, instead in _BY_LOOKS:
        text = pattern.sub(instead, text)
    return text


def without_secrets(error: Exception) -> Exception:
    """The same error, with redacted texts; what it came from, which may quote more, is dropped."""
    error.args = tuple(redacted(one) if isinstance(one, str) else one for one in error.args)
    for name in ("strerror", "filename"):
        if isinstance(value := getattr(error, name, None), str):
            setattr(error, name, redacted(value))
    error.__cause__ = error.__context__ = None
    return error


def _held() -> dict[str, str]:
    """Secrets by value, the longest first, so that none is left because a part of it was one."""
    found: dict[str, str] = {}
    for value, name in _values():
        for form in {value, unquote(value), quote(value, safe="")}:
            if len(form) >= SHORTEST or (name in _AWS and form):
                found.setdefault(form, name)
    return dict(sorted(found.items(), key=lambda item: -len(item[0])))


def _values() -> Iterator[tuple[str, str]]:
    for name, value in os.environ.items():
        words = name.upper().split("_")
        if _SECRET_WORDS.intersection(words):
            if words[-1] in _FILE_WORDS and value.startswith(("/", "~", ".")):
                yield from _of_file(value, name)
            elif name in _AWS or words[-1] not in _OTHER_WORDS:
                yield value.strip(), name
        if "://" in value and not re.search(r"\s", value):
            yield from _of_url(value, name)
    for path, name in _files(os.environ):
        yield from _of_file(path, name)


def _of_url(url: str, name: str) -> Iterator[tuple[str, str]]:
    user_info = url.split("://", 1)[1].rpartition("@")[0]
    # A text with a URL somewhere in it is no URL.
    if user_info and not re.search(r"\s", user_info):
        yield user_info, name
        yield user_info.partition(":")[2], name


def _files(environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Where programs keep secrets that this process may read."""
    hub = environment.get("HF_HOME", "~/.cache/huggingface")
    yield environment.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"), "AWS profile"
    yield environment.get("AWS_CONFIG_FILE", "~/.aws/config"), "AWS profile"
    yield f"{hub}/token", "HF_TOKEN"
    yield f"{hub}/stored_tokens", "HF_TOKEN"
    yield environment.get("NETRC", "~/.netrc"), "netrc"
    yield "~/.ray/auth_token", "RAY_AUTH_TOKEN"


def _of_file(path: str, name: str) -> Iterator[tuple[str, str]]:
    try:
        # `expanduser` fails where the user has no home.
        found = Path(path).expanduser()
        told = found.stat()
        if found.is_file() and told.st_size <= MOST_BYTES:
            for value in _in_file(str(found), told.st_mtime_ns, told.st_size):
                yield value, name
    except (OSError, RuntimeError):
        return


@lru_cache(maxsize=64)
def _in_file(path: str, modified: int, size: int) -> tuple[str, ...]:
    """The secrets in a file, read again only when it has changed."""
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    if text.lstrip().startswith("{"):
        return tuple(_in_json(text))
    if re.search(r"^\s*\[", text, re.MULTILINE):
        return tuple(_in_sections(text))
    words = text.split()
    if len(words) == 1:
        return (words[0],)
    return tuple(value for word, value in pairwise(words) if word == "password")


def _in_json(text: str) -> Iterator[str]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return
    for name, value in content.items():
        if isinstance(value, str) and _SECRET_WORDS.intersection(name.upper().split("_")):
            yield value


def _in_sections(text: str) -> Iterator[str]:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read_string(text)
    except configparser.Error:
        return
    for section in parser.values():
        for name, value in section.items():
            words = name.upper().split("_")
            if _SECRET_WORDS.intersection(words) and (words[-1] != "FILE"):
                yield value
