"""Finding the commit record of a unit, under its kind's name or one that the kind had before."""

from conceptprune.store import Commit, Store
from conceptprune.units.unit import kinds_of


def find_commit(store: Store, kind: str, key: str) -> Commit | None:
    """The commit record of a unit, or None where it is not done.

    Raises:
        StoreError: see `Store.find`.
    """
    found = (store.find(name, key) for name in kinds_of(kind))
    return next((commit for commit in found if commit is not None), None)
