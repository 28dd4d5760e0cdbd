"""Refuse credentials in URIs: they belong in the environment, the profile or the role."""

from conceptprune.errors import UserError
from conceptprune.redaction import holds_credentials

VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


def refuse_credentials(uri: str) -> None:
    """Refuse a store's URI that carries a user name, a key, a secret or a query.

    Raises:
        UserError: it does; the message does not repeat the URI.
    """
    if holds_credentials(uri):
        raise UserError(
            "--store: the URI holds credentials, which would end up in logs and job records; give "
            "s3://bucket/prefix with no credentials in it, and leave keys to the environment "
            f"({', '.join(VARIABLES)}), to AWS_PROFILE, or to the machine's role"
        )
