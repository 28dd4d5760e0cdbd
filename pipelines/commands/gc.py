"""`conceptprune gc`: what a store holds that no run refers to, and how it is removed.

Kept is whatever a recorded run refers to, be it finished, running or given up, for a rerun would
use it; and whatever is younger than a grace period, for a job may just have written it. An object
that a job needs again is written again when it is old (`Store.put`), and so counts as young.
"""

import time
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from pydantic import ValidationError
from rich.console import Console
from rich.filesize import decimal

from conceptprune.errors import StoreError, UserError
from conceptprune.manifest import Manifest
from conceptprune.store import Entry, Store
from conceptprune.units.plan import prompts_units
from conceptprune.units.unit import Need

from ..records.evaluation import EvaluationRecord
from ..records.ledger import READERS, RunRecord, read_ledger
from ..scheduling.kinds import kinds_of

FOLDERS = ("commits", "objects", "damaged", "claims")
"""In the order of removal: a record never outlives its objects."""

GRACE_HOURS = 24.0
LEAST_GRACE_HOURS = 2.0
"""Above `conceptprune.store.store.RENEWED_AFTER`: what a live job put again must count as young."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Garbage:
    """What may be removed from a store, in the order in which it should be."""

    entries: tuple[Entry, ...]
    num_kept: int
    bytes_kept: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedRun:
    """A run as it bears upon what may be removed."""

    id: str
    entries: tuple[Entry, ...]
    """Its own files."""
    needs: frozenset[Need]
    """Units it refers to, committed or not; none where it is to be forgotten."""
    edits: frozenset[str]
    """Paths of the masks and deltas that an evaluation applies, and that no unit of it made."""
    has_ledger: bool
    unfinished: bool
    """It has units without a result, or no ledger that would tell."""

    @property
    def written(self) -> float:
        """When it last wrote a file, in seconds since 1970."""
        return max(entry.modified for entry in self.entries)


def collect_garbage(
    store_uri: str,
    console: Console,
    *,
    yes: bool = False,
    forget: Collection[str] = (),
    grace_hours: float = GRACE_HOURS,
    now: float | None = None,
) -> None:
    """List what no run refers to, the runs to `forget` left out, and with `yes` remove it.

    Raises:
        UserError: a run to forget is unknown or live, or the grace period is too short.
        StoreError: nobody knows what a run needs: it has just begun, or its ledger is damaged.
    """
    if grace_hours < LEAST_GRACE_HOURS:
        raise UserError(f"--grace {grace_hours:g}: give at least {LEAST_GRACE_HOURS:g} hours")
    store = Store(store_uri)
    before = (time.time() if now is None else now) - 3600 * grace_hours
    runs = _runs(store, forget)
    garbage = find_garbage(store, runs, before=before, forget=forget)
    for entry in garbage.entries:
        console.print(
            f"{entry.path}  {decimal(entry.size)}", markup=False, highlight=False, soft_wrap=True
        )
    if yes:
        if _needs(_runs(store, forget)) != _needs(runs):
            raise StoreError(f"{store.uri}: a run began meanwhile, nothing was removed: try again")
        # Looked at once more: what was garbage may have been put again, and be in use by now.
        still = set(find_garbage(store, runs, before=before, forget=forget).entries)
        garbage = replace(garbage, entries=tuple(e for e in garbage.entries if e in still))
        store.remove([entry.path for entry in garbage.entries])
    for line in _summary(garbage, yes=yes, grace_hours=grace_hours):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def find_garbage(
    store: Store, runs: Collection[RecordedRun], *, before: float, forget: Collection[str] = ()
) -> Garbage:
    """What neither a run refers to nor is younger than `before`.

    Raises:
        UserError: a run to forget is unknown, or was unfinished and at work after `before`.
        StoreError: a run began after `before` and has no ledger yet.
    """
    if unknown := sorted(set(forget) - {run.id for run in runs}):
        raise UserError(f"--forget {unknown[0]}: {store.uri} has no such run")
    for run in runs:
        live = run.unfinished and run.written >= before
        if live and run.id in forget:
            raise UserError(f"--forget {run.id}: this run may be at work; wait until it has ended")
        if live and not run.has_ledger:
            raise StoreError(
                f"{store.uri}: run {run.id} has just begun, and what it needs is not on record "
                "yet: try again in a few minutes"
            )
    forgotten = [entry for run in runs if run.id in forget for entry in run.entries]
    needs = {need for run in runs for need in run.needs}
    found = [entry for folder in FOLDERS for entry in store.entries(folder)]
    kept_units = [
        unit
        for entry in found
        if (unit := _unit_of(entry.path)) and (unit in needs or entry.modified >= before)
    ]
    kept = {f"commits/{kind}/{key}.json" for kind, key in kept_units}
    kept |= {path for run in runs for path in run.edits}
    with ThreadPoolExecutor(READERS) as readers:
        for commit in readers.map(lambda unit: store.find(*unit), kept_units):
            kept |= {ref.path for ref in commit.objects.values()} if commit else set()
    garbage = [
        *forgotten,
        *(entry for entry in found if entry.path not in kept and entry.modified < before),
    ]
    return Garbage(
        entries=tuple(garbage),
        num_kept=len(found) + len(forgotten) - len(garbage),
        bytes_kept=sum(entry.size for entry in [*found, *forgotten])
        - sum(entry.size for entry in garbage),
    )


def _unit_of(path: str) -> Need | None:
    """The unit whose commit record lies at `path`; None for any other file."""
    parts = path.split("/")
    if parts[0] != "commits" or len(parts) != 3 or not path.endswith(".json"):
        return None
    return parts[1], parts[2].removesuffix(".json")


def _needs(runs: Collection[RecordedRun]) -> dict[str, frozenset[Need]]:
    return {run.id: run.needs for run in runs}


def _runs(store: Store, forget: Collection[str]) -> list[RecordedRun]:
    files: dict[str, list[Entry]] = {}
    for entry in store.entries("runs"):
        files.setdefault(entry.path.split("/")[1].removeprefix("run="), []).append(entry)
    return [
        _run(store, run, tuple(entries), forget=run in forget)
        for run, entries in sorted(files.items())
    ]


def _run(store: Store, run: str, entries: tuple[Entry, ...], *, forget: bool) -> RecordedRun:
    try:
        rows = read_ledger(store, run)
    except StoreError:
        if not forget:
            raise
        rows = []
    needs: set[Need] = set()
    if not forget:
        # Under its former name, too, the record of a unit is the one that the run refers to.
        needs = {(kind, row["key"]) for row in rows for kind in kinds_of(row["kind"])}
        needs |= set(_prompts(store, run))
    return RecordedRun(
        id=run,
        entries=entries,
        needs=frozenset(needs),
        edits=frozenset() if forget else _edits(store, run),
        has_ledger=bool(rows),
        unfinished=not rows or any(row["status"] == "pending" for row in rows),
    )


def _prompts(store: Store, run: str) -> Iterator[Need]:
    """The units that made a run's prompts: they come before the plan, so no ledger has them."""
    try:
        record = RunRecord.read(store, run)
        manifest = Manifest.model_validate({**record.manifest, "model": {"folder": "not recorded"}})
    except KeyError:
        return
    except ValidationError as error:
        raise StoreError(
            f"{store.uri}: run {run} was recorded by another version of conceptprune, so what it "
            "refers to is not known: use that version, or --forget the run"
        ) from error
    for unit in prompts_units(manifest, record.language_model):
        yield unit.kind, unit.key


def _edits(store: Store, run: str) -> frozenset[str]:
    record = EvaluationRecord.read(store, run)
    return frozenset() if record is None else record.edits


def _summary(garbage: Garbage, *, yes: bool, grace_hours: float) -> Iterator[str]:
    for folder in ("runs", *FOLDERS):
        some = [entry for entry in garbage.entries if entry.path.startswith(f"{folder}/")]
        if some:
            yield f"{folder}: {_amount(len(some), sum(entry.size for entry in some))}"
    total = _amount(len(garbage.entries), sum(entry.size for entry in garbage.entries))
    yield (
        f"{'removed' if yes else 'could be removed'}: {total}; kept, for runs refer to it or it is "
        f"younger than {grace_hours:g} h: {_amount(garbage.num_kept, garbage.bytes_kept)}"
    )
    if garbage.entries and not yes:
        yield "nothing was changed: --yes removes what is listed"


def _amount(number: int, size: int) -> str:
    return f"{number:,} {'file' if number == 1 else 'files'}, {decimal(size)}"
