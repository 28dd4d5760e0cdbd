"""Whether the masks and the rewording that a run's records name are those of its concepts.

Whoever can write a store can let one concept's record name another concept's mask. All digests are
right then: only the mask's own file says whom it erases. The same holds of a rewording's delta.
"""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from conceptprune.checkpoints.delta_header import MOST_HEADER_BYTES, DeltaHeader, begun_header
from conceptprune.errors import StoreError, UserError
from conceptprune.manifest import concept_key
from conceptprune.masks.mask_file import named_concepts
from conceptprune.store import ObjectRef, Store, UnknownFormatError
from conceptprune.units.find import find_commit

from .combined import REWORD, inside
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

    def wrong_rewording(
        self, done: Iterable[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]
    ) -> str:
        """What is wrong with a rewording among the rows that are `done`; empty if nothing is."""
        for row in done:
            if row["kind"] == REWORD:
                names = inside(row, rows)
                at = row["key"], "\n".join(names)
                if at not in self._found:
                    self._found[at] = self._problem_of_rewording(row["key"], names)
                if self._found[at]:
                    return self._found[at]
        return ""

    def _problem_of_rewording(self, key: str, names: Sequence[str]) -> str:
        try:
            commit = find_commit(self._store, REWORD, key)
            ref = commit.objects.get("delta") if commit else None
            if ref is None:
                return "its record is damaged, or names no delta"
            header = delta_header(self._store, ref)
        except UnknownFormatError:
            return ""
        except (StoreError, UserError) as error:
            return str(error)
        concepts = header.concepts if header else ()
        if list(map(concept_key, concepts)) == list(map(concept_key, names)):
            return ""
        return f"its file is a rewording of {', '.join(concepts)}: somebody changed its record"

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


def delta_header(store: Store, ref: ObjectRef) -> DeltaHeader | None:
    """What a delta's file says of itself, from its beginning; None for another tool's.

    Raises:
        StoreError: it is missing.
        UserError: it is no delta.
    """
    beginning = store.begin(ref, HEADER_BYTES)
    size = 8 + int.from_bytes(beginning[:8], "little")
    if len(beginning) < size <= MOST_HEADER_BYTES:
        beginning = store.begin(ref, size)
    return begun_header(beginning)
