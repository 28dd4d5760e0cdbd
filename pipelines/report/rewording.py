"""What a report says of a rewording besides what it says of any edit."""

from collections.abc import Mapping

from conceptprune.checkpoints.delta_reader import begun_header
from conceptprune.errors import UserError
from conceptprune.store import Commit, Store

HEADER_BYTES = 2**22
"""What is read of a delta: longer than the header of one of thousands of concepts."""


def strengths(store: Store, commit: Commit) -> Mapping[str, float]:
    """How strongly it keeps what stays, as its file says; empty where another version wrote it.

    Raises:
        StoreError: it is missing.
    """
    ref = commit.objects.get("delta")
    if ref is None:
        return {}
    try:
        header = begun_header(store.begin(ref, HEADER_BYTES))
    except UserError:
        return {}
    settings = header.provenance.get("settings") if header else None
    if not isinstance(settings, dict):
        return {}
    return {name: value for name, value in settings.items() if isinstance(value, int | float)}
