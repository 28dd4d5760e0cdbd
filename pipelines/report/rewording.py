"""What a report says of a rewording besides what it says of any edit."""

from collections.abc import Mapping

from conceptprune.errors import UserError
from conceptprune.store import Commit, Store

from ..records.whose import delta_header


def strengths(store: Store, commit: Commit) -> Mapping[str, float]:
    """How strongly it keeps what stays, as its file says; empty where another version wrote it.

    Raises:
        StoreError: it is missing.
    """
    ref = commit.objects.get("delta")
    if ref is None:
        return {}
    try:
        header = delta_header(store, ref)
    except UserError:
        return {}
    settings = header.provenance.get("settings") if header else None
    if not isinstance(settings, dict):
        return {}
    return {name: value for name, value in settings.items() if isinstance(value, int | float)}
