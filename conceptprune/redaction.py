"""Secrets stay out of whatever is written: errors, logs, ledgers, pages, records of jobs.

`redacted` is called where text leaves: by formatters of logs, by what prints, by the worker that
reports an error, by the ledger. It knows the values that this process holds or could read, of the
environment and of the files where AWS, Hugging Face, Ray and netrc keep theirs; and what is secret
by its looks, wherever it comes from: a service may echo what came with a machine's role.
"""

import base64
import configparser
import html
import json
import os
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from urllib.parse import quote, quote_plus, unquote

SHORTEST = 8
"""Characters of a secret: shorter values, such as `none`, are words of ordinary text."""
PIECE = 10
"""Characters at the beginning or the end of a secret that are known for a part of it."""
FAR = 1 << 14
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

_NO_VALUES = frozenset({"none", "null", "true", "false", "not", "no", "is", "set", "unset"})

_USER_INFO = re.compile(
    r"://(?:"
    r"\S*:\S*@"  # A secret may have slashes in it.
    r"|[^/\s]*@"
    r"|[^/\s:]*:(?!\d+\b)[^/\s]+"  # What follows a colon and is no port.
    r")"
)
_QUERY = re.compile(r"(://[^\s?]*)\?[^\s\"']*")
_NAMED = re.compile(
    r"""(?<![\w.-])(?P<name>[A-Za-z][\w.-]*)"""
    r"""(?P<between>["']?[ \t]*[=:][ \t]*["']?)(?P<value>[^\s"',;&<>]+)"""
)
"""NAME=VALUE of variables and connection strings, `NAME: VALUE` of headers and of JSON."""
_SECRET_NAMES = re.compile(
    r"passw|pwd$|secret|account-?key|access-?key$|api-?key|private-?key|shared-?access-?(?:key|signature)$"
    r"|(?:security|session|auth|access|refresh|private|bearer|id)-?token$|^authorization$|^sig$",
    re.IGNORECASE,
)
"""What is secret under such a name, without its underscores, is so whatever it looks like."""
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
    held = _held()
    for value in sorted(held, key=len, reverse=True):
        if value in text:
            text = text.replace(value, f"<{held[value]}>")
    text = _without_pieces(text, held)
    text = _USER_INFO.sub("://<credentials>@", text)
    text = _QUERY.sub(r"\1?<query>", text)
    for pattern, instead in _BY_LOOKS:
        text = pattern.sub(instead, text)
    return _NAMED.sub(_without_value, text)


def shortened(text: str, most: int) -> str:
    """The beginning of a text, redacted first: a part of a secret is hard to know."""
    # What is far behind the end is not looked at: a text may have any length.
    clean = redacted(text[: most + FAR])
    return clean if len(clean) <= most else clean[: most - 3] + "..."


def _without_pieces(text: str, held: Mapping[str, str]) -> str:
    """Text without the beginnings and ends of secrets that somebody else cut off.

    Of several forms of a secret, the one of which there is most counts.
    """
    found: list[tuple[int, int, str]] = []
    for value, name in held.items():
        if len(value) <= PIECE:
            continue
        for at in _places(text, value[:PIECE]):
            end = at + PIECE
            while end < len(text) and text[at : end + 1] == value[: end + 1 - at]:
                end += 1
            found.append((at, end, name))
        for at in _places(text, value[-PIECE:]):
            start, end = at, at + PIECE
            while start and text[start - 1 : end] == value[start - 1 - end :]:
                start -= 1
            found.append((start, end, name))
    shown, seen = "", 0
    for start, end, name in sorted(found):
        if start >= seen:
            shown += f"{text[seen:start]}<{name}>"
        seen = max(seen, end)
    return shown + text[seen:]


def _places(text: str, part: str) -> Iterator[int]:
    at = text.find(part)
    while at >= 0:
        yield at
        at = text.find(part, at + 1)


def _without_value(found: re.Match[str]) -> str:
    name = found["name"]
    words = name.upper().split("_")
    is_variable = name == name.upper() and _SECRET_WORDS.intersection(words)
    is_secret = is_variable or _SECRET_NAMES.search(name.replace("_", "-"))
    # Of a header, the scheme is left; what follows it was taken out by its looks.
    if not is_secret or words[-1] in _OTHER_WORDS | _FILE_WORDS or found["between"].isspace():
        return found[0]
    if found["value"].lower() in _NO_VALUES or (":" in found["between"] and not _told(found)):
        return found[0]
    return f"{name}{found['between']}<hidden>"


def _told(found: re.Match[str]) -> bool:
    """Whether what follows a colon may be a secret, and is no ordinary word of a sentence."""
    value = found["value"]
    return '"' in found["between"] or "'" in found["between"] or len(value) > PIECE


def without_secrets(error: Exception) -> Exception:
    """The same error, with redacted texts; what it came from, which may quote more, is dropped."""
    error.args = tuple(redacted(one) if isinstance(one, str) else one for one in error.args)
    for name in ("strerror", "filename"):
        if isinstance(value := getattr(error, name, None), str):
            setattr(error, name, redacted(value))
    error.__cause__ = error.__context__ = None
    return error


def _held() -> dict[str, str]:
    """Secrets by each of their forms, plain ones first."""
    found: dict[str, str] = {}
    for value, name in _values():
        for form in _forms(value):
            if len(form) >= SHORTEST or (name in _AWS and form):
                found.setdefault(form, name)
    return found


@lru_cache(maxsize=1024)
def _forms(value: str) -> tuple[str, ...]:
    """A secret as itself, and as programs write it into URLs, headers, JSON, pages and errors."""
    plain = [value, unquote(value)]
    # What is short would be found in ordinary text in one form or another.
    if len(value) < SHORTEST:
        return (*plain, quote(value, safe=""))
    forms = [*plain]
    for form in plain:
        data = form.encode(errors="surrogateescape")
        quoted = [quote(data, safe=""), quote(data), quote_plus(data)]
        forms += [*quoted, *(re.sub("%..", lambda code: code[0].lower(), one) for one in quoted)]
        forms += [json.dumps(form)[1:-1], json.dumps(form, ensure_ascii=False)[1:-1]]
        forms += [repr(form)[1:-1], ascii(form)[1:-1], html.escape(form)]
        forms += ["".join(f"\\u{ord(char):04x}" for char in form), data.hex(), data.hex().upper()]
        forms += _in_base64(data)
    return tuple(dict.fromkeys(form for form in forms if len(form) >= SHORTEST))


def _in_base64(data: bytes) -> Iterator[str]:
    """Within what is encoded together with it, as a password is with its user's name."""
    for before in range(3):
        coded = base64.b64encode(bytes(before) + data).decode()
        # The characters that depend on nothing else.
        own = coded[-(-before * 8 // 6) : (before + len(data)) * 8 // 6]
        yield own
        yield own.replace("+", "-").replace("/", "_")


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
