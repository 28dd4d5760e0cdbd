"""Reading a store's masks and rewordings whole, for an audit that changes nothing.

Not by `Store.load`, which moves damage aside. Whoever can write a store can let one record name
another's object: all digests are right then, and only the file itself says whom it erases.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from conceptprune.errors import StoreError, UserError
from conceptprune.manifest import concept_key
from conceptprune.store import ObjectRef, Store
from conceptprune.units.find import find_commit

from ..console.names import some
from ..records.combined import REWORD, how_combined, inside
from ..records.ledger import is_combined, open_ledger
from ..records.runs import finished_masks, recorded
from ..records.whose import delta_header
from ..scheduling.graph import committed_in


def bad_edits(store: Store) -> Iterator[str]:
    """What is wrong with the finished masks and rewordings of a store's runs."""
    seen: set[tuple[str, ...]] = set()
    bad: set[str] = set()
    for run in store.runs():
        try:
            record = recorded(store, run)
            masks = finished_masks(store, record)[0] if record else {}
        except UserError:
            masks = {}  # None is finished.
        except StoreError as error:
            yield str(error)
            continue
        edits: list[tuple[str, str, tuple[str, ...], str]] = [
            ("mask", key, (name,), f"mask of {name}") for name, key in masks.items()
        ]
        if record:
            edits += _combined(store, run)
        for kind, key, names, what in edits:
            if (kind, key, *names) in seen:
                continue
            seen.add((kind, key, *names))
            try:
                _check(store, kind, key, names)
            except (StoreError, UserError) as error:
                bad.add(key)
                yield f"{what}: {error}"
        if record:
            good = {name: key for name, key in masks.items() if key not in bad}
            yield from _bad_deltas(store, run, good)


def _combined(store: Store, run: str) -> list[tuple[str, str, tuple[str, ...], str]]:
    """(kind, key, names, what it is) of each finished edit of several of a run's concepts."""
    ledger = open_ledger(store, run)
    if ledger.is_later:
        return []  # Its rows may not say whom it erases.
    committed = committed_in(store)
    found = []
    for row in ledger.rows:
        if is_combined(row) and committed(row["kind"], row["key"]):
            names = inside(row, ledger.rows)
            what = "rewording" if how_combined(row) == "reworded" else "fused mask"
            # Before ledger/3, no row says which concepts they are.
            known = names if row["needs"] else ()
            found.append((row["kind"], row["key"], known, f"{what} of {some(names)}"))
    return found


def _bad_deltas(store: Store, run: str, masks: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with the deltas of single concepts, which people take from a store as files."""
    ledger = open_ledger(store, run)
    names_of = {key: name for name, key in masks.items()}
    for row in [] if ledger.is_later else ledger.rows:
        name = names_of.get(row["mask"] or "")
        if row["kind"] != "checkpoint" or row["detail"] != "delta" or name is None:
            continue
        try:
            commit = find_commit(store, row["kind"], row["key"])
            mask = find_commit(store, "mask", row["mask"])
            for role, ref in commit.objects.items() if commit and mask else ():
                header = delta_header(store, ref)
                theirs = header.concepts if header else ()
                if list(map(concept_key, theirs)) != [concept_key(name)]:
                    yield f"delta of {name}: its file ({role}) is a delta of {some(theirs)}"
                elif header and mask and header.mask != mask.objects["mask"].digest:
                    yield f"delta of {name}: its file ({role}) is of another mask than its own"
        except (StoreError, UserError, LookupError) as error:
            yield f"delta of {name}: {error}"


def _check(store: Store, kind: str, key: str, names: tuple[str, ...]) -> None:
    """Read an edit; raises an error if it is damaged, or not of the concepts with these names."""
    # They import torch, which an export without a store does without.
    from conceptprune.masks.mask import PruningMask
    from conceptprune.units.results import check_whose
    from conceptprune.units.rewording import check_rewording

    role = "delta" if kind == REWORD else "mask"
    commit = find_commit(store, kind, key)
    ref = commit.objects.get(role) if commit else None
    if commit is None or ref is None:
        raise StoreError(f"its record is damaged, or names no {role}")
    data = store.read(ref)
    if role == "delta":
        check_rewording(store, commit, data, of=names)
    else:
        mask = PruningMask.from_bytes(data)
        check_whose(store, commit, mask, *(names or mask.concepts))


def problem_of(store: Store, stated: Any, names: Sequence[str], *, delta: bool) -> str:
    """What is wrong with an object that a statement of provenance names; empty if nothing is."""
    from conceptprune.checkpoints.delta_reader import read_delta
    from conceptprune.masks.mask import PruningMask

    what = "rewording" if delta else "mask"
    try:
        data = store.read(ObjectRef.from_json(dict(stated)))
        if delta:
            header, _ = read_delta(data)
            concepts = header.concepts if header else ()
        else:
            concepts = PruningMask.from_bytes(data).concepts
    except (StoreError, UserError, ValueError) as error:
        return f"{what} of {some(names)}: {error}"
    if list(map(concept_key, concepts)) == list(map(concept_key, names)):
        return ""
    return f"{what} of {some(names)}: is in the store a {what} of {some(concepts)}"
