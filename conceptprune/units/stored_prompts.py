"""Prompts in the store, checked to be those of their unit's concepts."""

from collections.abc import Iterable

from conceptprune.prompts.table import Pairs, pairs_from_table
from conceptprune.store import Commit, Store, load_table


def load_pairs(store: Store, commit: Commit, names: Iterable[str] | None = None) -> Pairs:
    """The prompt pairs of a commit, by concept name; of exactly the concepts `names`, if given.

    Raises:
        LostUnitError: they are missing or damaged, or are other concepts' or another unit's.
        StoreError: the table is of another form.
    """
    pairs = pairs_from_table(load_table(store, commit, "prompts"))
    if names is not None and set(pairs) != set(names):
        # Tables of earlier versions name no unit.
        raise store.refused(commit, f"names the prompts of {', '.join(pairs) or 'nobody':.300}")
    return pairs
