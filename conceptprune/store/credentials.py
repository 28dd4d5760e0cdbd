"""Credentials stay where they are: in the environment, the profile or the role."""

import os
import re

from conceptprune.errors import UserError

VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")

_USER_INFO = re.compile(r"://[^/]*@")


def refuse_credentials(uri: str) -> None:
    """Refuse a store's URI that carries a user name, a key or a secret.

    Raises:
        UserError: it does; the message does not repeat it.
    """
    if _USER_INFO.search(uri):
        raise UserError(
            "--store: the URI holds credentials, which would end up in logs and job records; give "
            "s3://bucket/prefix alone and leave keys to the environment "
            f"({', '.join(VARIABLES)}), to AWS_PROFILE, or to the machine's role"
        )


def redacted(text: str) -> str:
    """A foreign error's text without the credentials of this process, and those within URLs."""
    for name in VARIABLES:
        if value := os.environ.get(name):
            text = text.replace(value, f"<{name}>")
    return _USER_INFO.sub("://<credentials>@", text)
