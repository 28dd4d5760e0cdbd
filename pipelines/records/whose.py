"""Whether the masks and the rewording that a run's records name are those of its concepts.

Whoever can write a store can let one concept's record name another concept's mask. All digests are
right then: only the mask's own file says whom it erases. The same holds of a rewording's delta.
"""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from conceptprune.checkpoints.delta_header import MOST_HEADER_BYTES, DeltaHeader, begun_header
from conceptprune.errors import StoreError, UserError
from conceptprune.manifest import concept_key
from conceptprune.masks.mask_file import named_concepts
from conceptprune.store import ObjectRef, Store, UnknownFormatError
from conceptprune.units.find import find_commit

from ..console.names import some
from .combined import REWORD, inside
from .ledger import READERS, is_combined, is_own_mask

HEADER_BYTES = 2**18
"""What is read of a mask at first: longer than the header of one concept's."""

At = tuple[str, str]
"""A mask's or a rewording's key, and whose it should be."""


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
            problems = readers.map(lambda at: self._problem("mask", at[0], [at[1]]), new)
            self._found |= zip(new, problems, strict=True)
        return {name: self._found[key, name] for key, name in wanted if self._found[key, name]}

    def wrong_combined(
        self, done: Iterable[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]
    ) -> str:
        """What is wrong with the combined checkpoint among the rows that are `done`, if any is."""
        for row in done:
            if is_combined(row):
                names = inside(row, rows)
                at = row["key"], "\n".join(names)
                if at not in self._found:
                    self._found[at] = self._problem(row["kind"], row["key"], names)
                if self._found[at]:
                    return self._found[at]
        return ""

    def _problem(self, kind: str, key: str, names: Sequence[str]) -> str:
        what, role = ("rewording", "delta") if kind == REWORD else ("mask", "mask")
        try:
            commit = find_commit(self._store, kind, key)
            ref = commit.objects.get(role) if commit else None
            if ref is None:
                return f"its record is damaged, or names no {role}"
            concepts = self._concepts(ref, kind)
        except UnknownFormatError:
            return ""
        except (StoreError, UserError) as error:
            return str(error)
        if concepts is None or list(map(concept_key, concepts)) == list(map(concept_key, names)):
            return ""
        return f"its file is a {what} of {some(concepts)}: somebody changed its record"

    def _concepts(self, ref: ObjectRef, kind: str) -> tuple[str, ...] | None:
        """Whom a file says that it erases; None if it cannot be told."""
        if kind == REWORD:
            header = delta_header(self._store, ref)
            return header.concepts if header else ()
        mask = begun_mask(self._store, ref)
        return mask.concepts if mask else None


@dataclass(frozen=True, slots=True)
class BegunMask:
    """What the beginning of a mask's file says."""

    concepts: tuple[str, ...]


def begun_mask(store: Store, ref: ObjectRef) -> BegunMask | None:
    """Whom a mask's file says that it erases, from its beginning; None if it cannot be told.

    Raises:
        StoreError: it is missing.
        UserError: it is no mask.
    """
    names = named_concepts(_header(store, ref), ref.size)
    return None if names is None else BegunMask(names)


def delta_header(store: Store, ref: ObjectRef) -> DeltaHeader | None:
    """What a delta's file says of itself, from its beginning; None for another tool's.

    Raises:
        StoreError: it is missing.
        UserError: it is no delta.
    """
    return begun_header(_header(store, ref))


def _header(store: Store, ref: ObjectRef) -> bytes:
    """A safetensors file's beginning, with its whole header unless that is beyond all measure."""
    beginning = store.begin(ref, HEADER_BYTES)
    size = 8 + int.from_bytes(beginning[:8], "little")
    if len(beginning) < size <= min(MOST_HEADER_BYTES, ref.size):
        return store.begin(ref, size)
    return beginning
