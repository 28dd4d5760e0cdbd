"""Whether the masks that a run's records name are those of its concepts.

Whoever can write a store can let one concept's record name another concept's mask. All digests are
right then: only the mask's own file says whom it erases.
"""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from conceptprune.errors import StoreError, UserError
from conceptprune.manifest import concept_key
from conceptprune.masks.mask_file import named_concepts
from conceptprune.store import Store, UnknownFormatError
from conceptprune.units.find import find_commit

from .ledger import READERS, is_own_mask

HEADER_BYTES = 2**18
"""What is read of a mask: longer than the header of any model's, and shorter than the mask."""

At = tuple[str, str]
"""A mask's key, and the concept whose it should be."""


class Whose:
    """Looks at the record and the beginning of each mask, once for all runs that name it.

    Cheap enough for every `status`. It finds masks that were put in another's place, not those that
    were damaged or made up: for that, `verify --store` reads them whole.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._found: dict[At, str] = {}
        """What is wrong with a mask; empty if nothing is, or it cannot be told."""

    def wrong(self, rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
        """By concept, what is wrong with the mask of a ledger row that is done."""
        wanted = [(row["key"], row["concepts"][0]) for row in rows if is_own_mask(row)]
        new = [at for at in dict.fromkeys(wanted) if at not in self._found]
        with ThreadPoolExecutor(READERS) as readers:
            self._found |= zip(new, readers.map(self._problem, new), strict=True)
        return {name: self._found[key, name] for key, name in wanted if self._found[key, name]}

    def _problem(self, at: At) -> str:
        key, name = at
        try:
            commit = find_commit(self._store, "mask", key)
            ref = commit.objects.get("mask") if commit else None
            if ref is None:
                return "its record is damaged, or names no mask"
            beginning = self._store.begin(ref, HEADER_BYTES)
            concepts = named_concepts(beginning, ref.size)
        except UnknownFormatError:
            return ""
        except (StoreError, UserError) as error:
            return str(error)
        if concepts is None or list(map(concept_key, concepts)) == [concept_key(name)]:
            return ""
        return f"its file is a mask of {', '.join(concepts)}: somebody changed its record"
