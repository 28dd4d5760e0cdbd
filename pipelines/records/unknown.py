"""What this version does not know in a run's record, because another version wrote it."""

from collections.abc import Iterator, Sequence

from .ledger import Ledger
from .run_record import RunRecord
from .runs import AnyRecord, UnknownRecord

SHOWN_NAMES = 6


def unknown_to_this_version(record: AnyRecord, ledger: Ledger) -> Iterator[str]:
    """In words, one by one: the parts that this version does not read."""
    if isinstance(record, UnknownRecord):
        yield "what kind of run it is"
    elif record.later:
        yield "what its record says in a later format"
    if ledger.is_later:
        yield f"what its ledger says in the later format ledger/{ledger.number}"
    if ledger.unknown:
        yield f"the ledger's {_some('column', ledger.unknown)}"
    if isinstance(record, RunRecord) and (fields := record.asked.unknown):
        yield f"the manifest's {_some('field', fields)}"


def _some(what: str, names: Sequence[str]) -> str:
    shown = ", ".join(names[:SHOWN_NAMES])
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return f"{what}{'s' if len(names) > 1 else ''} {shown}{more}"
