"""Find the commit record of a unit, under the current or a former name of its kind."""

from conceptprune.store import Commit, Store
from conceptprune.units.unit import kinds_of


def find_commit(store: Store, kind: str, key: str) -> Commit | None:
    """The commit record of a unit, or None if it is not done.

    Raises:
        StoreError: see `Store.find`.
    """
    found = (store.find(name, key) for name in kinds_of(kind))
    return next((commit for commit in found if commit is not None), None)
