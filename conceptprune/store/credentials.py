"""Credentials stay where they are: in the environment, the profile or the role."""

import os
import re

from conceptprune.errors import UserError

VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")

_USER_INFO = re.compile(
    r"://(?:"
    r"\S*:\S*@"  # A secret may have slashes in it.
    r"|[^/\s]*@"
    r"|[^/\s:]*:(?!\d+\b)[^/\s]+"  # What follows a colon and is no port.
    r")"
)
_QUERY = re.compile(r"(://[^\s?]*)\?\S*")


def holds_credentials(uri: str) -> bool:
    """Whether a URI has a place where credentials are given, with anything in it."""
    return bool(_USER_INFO.search(uri) or _QUERY.search(uri))


def refuse_credentials(uri: str) -> None:
    """Refuse a store's URI that carries a user name, a key, a secret or a query.

    Raises:
        UserError: it does; the message does not repeat it.
    """
    if holds_credentials(uri):
        raise UserError(
            "--store: the URI holds credentials, which would end up in logs and job records; give "
            "s3://bucket/prefix with no credentials in it, and leave keys to the environment "
            f"({', '.join(VARIABLES)}), to AWS_PROFILE, or to the machine's role"
        )


def redacted(text: str) -> str:
    """A foreign error's text without the credentials of this process, and those within URLs."""
    for name in VARIABLES:
        if value := os.environ.get(name):
            text = text.replace(value, f"<{name}>")
    text = _USER_INFO.sub("://<credentials>@", text)
    return _QUERY.sub(r"\1?<query>", text)
