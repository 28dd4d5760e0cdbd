"""What a report says of a combined edit besides what it says of any, and whose it must be."""

from collections.abc import Mapping, Sequence
from typing import Any

from conceptprune.checkpoints.delta_header import DeltaHeader
from conceptprune.errors import UserError
from conceptprune.store import Commit, Store
from conceptprune.units.results import check_whose

from ..records.combined import REWORD, role_of
from ..records.whose import begun_mask, delta_header


def settings(
    store: Store, commit: Commit, row: Mapping[str, Any], names: Sequence[str]
) -> Mapping[str, float]:
    """The settings of a rewording, as its file says.

    Empty for a fused mask, and where another version wrote it.

    Raises:
        StoreError: it is missing, or its file says that it is of others than the concepts `names`.
    """
    ref = commit.objects.get(role_of(row))
    if ref is None:
        return {}
    is_rewording = row["kind"] == REWORD
    try:
        edit = delta_header(store, ref) if is_rewording else begun_mask(store, ref)
    except UserError:
        return {}
    # Ledgers before ledger/3 do not say of whom it is.
    if edit is not None and row["needs"]:
        check_whose(store, commit, edit, *names)
    found = edit.provenance.get("settings") if isinstance(edit, DeltaHeader) else None
    if not isinstance(found, dict):
        return {}
    return {name: value for name, value in found.items() if isinstance(value, int | float)}
