"""`conceptprune gc`: find what no run in a store refers to, and remove it.

Everything that a recorded run refers to is kept, whether the run is finished, running or abandoned,
because a rerun would use it. Everything younger than a grace period is also kept, because a job may
just have written it. If a job needs an old object, it is rewritten (`Store.put`), and so counts as
young.

A run's ledger says what it refers to. If a later version wrote a ledger or a record in an unknown
format, it may refer to anything, so all results are kept.
"""

import re
import time
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import inf

from rich.console import Console
from rich.filesize import decimal

from conceptprune.errors import StoreError, UserError
from conceptprune.store import Commit, Entry, Store, UnknownFormatError
from conceptprune.store.files import TEMPORARY_PREFIX
from conceptprune.units.unit import Need

from ..records.concepts import FILE as CONCEPTS_FILE
from ..records.earlier import edits_beside_rows, needs_beside_rows
from ..records.evaluation import RUN_FILE as EVALUATION_FILE
from ..records.evaluation import EvaluationRecord
from ..records.journal import JOBS_FOLDER
from ..records.ledger import COMPLETE, LEDGER_FILE, READERS, Ledger, need_of, open_ledger
from ..records.run_record import RUN_FILE, RunRecord
from ..records.trail import removing
from ..scheduling.kinds import kinds_of

RESULTS = ("commits", "objects")
FOLDERS = (*RESULTS, "damaged", "claims", "probe")
"""In the order of removal, so that a record never outlives its objects."""

OBJECT = re.compile(r"objects/[^/]+/model=[^/]+/[0-9a-f]{64}\.[^/]+")
"""Where this version puts objects; anything else below `objects` belongs to other versions."""

GRACE_HOURS = 24.0
LEAST_GRACE_HOURS = 2.0
"""Above `conceptprune.store.store.RENEWED_AFTER`: what a live job rewrote must count as young."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Garbage:
    """What may be removed from a store, in the order of removal."""

    entries: tuple[Entry, ...]
    num_kept: int
    bytes_kept: int
    notes: tuple[str, ...] = ()
    """What was kept because this version cannot tell whether it is needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedRun:
    """A run, and what it keeps from being removed."""

    id: str
    entries: tuple[Entry, ...]
    """The run's own files."""
    needs: frozenset[Need]
    """Units it refers to, committed or not; empty if the run is being forgotten."""
    edits: frozenset[str]
    """Paths of masks and deltas that an evaluation applies but did not make."""
    has_ledger: bool
    unfinished: bool
    """True if it has units without a result, or no ledger to tell."""
    unknown: str = ""
    """Why it may refer to more than this version knows; empty if it does not."""

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
    """List what no run refers to, ignoring the runs to `forget`, and with `yes` remove it.

    Raises:
        UserError: a run to forget is unknown or live, or the grace period is too short.
        StoreError: a run's needs are unknown: it has just begun, or its ledger is damaged.
    """
    # Not true of NaN either.
    if not LEAST_GRACE_HOURS <= grace_hours < inf:
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
        # Look again: garbage may have been rewritten meanwhile, and be in use now.
        still = set(find_garbage(store, runs, before=before, forget=forget).entries)
        garbage = replace(garbage, entries=tuple(e for e in garbage.entries if e in still))
        if garbage.entries:
            removing(store, garbage.entries, forget)
        store.remove([entry.path for entry in garbage.entries])
    for note in garbage.notes:
        console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
    for line in _summary(garbage, yes=yes, grace_hours=grace_hours):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def find_garbage(
    store: Store, runs: Collection[RecordedRun], *, before: float, forget: Collection[str] = ()
) -> Garbage:
    """Everything that no run refers to and that is older than `before`.

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
        if live and not run.has_ledger and not run.unknown:
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
    notes = [_unknown_run(run) for run in runs if run.unknown]
    strange = [entry.path for entry in found if not _is_ours(entry.path)]
    if strange:
        kept |= set(strange)
        notes.append(
            f"{strange[0]} and all else that is named as no version known here names it are kept"
        )
    with ThreadPoolExecutor(READERS) as readers:
        commits = list(readers.map(lambda unit: _find(store, unit), kept_units))
    later = [unit for unit, commit in zip(kept_units, commits, strict=True) if commit is LATER]
    if later:
        notes.append(_unknown_records(later))
    for commit in commits:
        if isinstance(commit, Commit):
            kept |= {ref.path for ref in commit.objects.values()}
    if any(run.unknown for run in runs):
        kept |= {entry.path for entry in found if entry.path.startswith(RESULTS)}
    elif later:
        kept |= {entry.path for entry in found if entry.path.startswith("objects/")}
    garbage = [
        *forgotten,
        *(entry for entry in found if entry.path not in kept and entry.modified < before),
    ]
    return Garbage(
        entries=tuple(garbage),
        num_kept=len(found) + len(forgotten) - len(garbage),
        bytes_kept=sum(entry.size for entry in [*found, *forgotten])
        - sum(entry.size for entry in garbage),
        notes=tuple(notes),
    )


class _Later:
    """A record of a later version, whose objects are unknown."""


LATER = _Later()


def _find(store: Store, unit: Need) -> Commit | _Later | None:
    try:
        return store.find(*unit)
    except UnknownFormatError:
        return LATER


def _unit_of(path: str) -> Need | None:
    """The unit whose commit record is at `path`; None for any other file."""
    parts = path.split("/")
    if parts[0] != "commits" or len(parts) != 3 or not path.endswith(".json"):
        return None
    return parts[1], parts[2].removesuffix(".json")


def _is_ours(path: str) -> bool:
    """Whether this version could have put a file there, complete or half-written."""
    if not path.startswith(RESULTS) or path.rpartition("/")[2].startswith(TEMPORARY_PREFIX):
        return True
    return bool(_unit_of(path) or OBJECT.fullmatch(path))


def _unknown_run(run: RecordedRun) -> str:
    return (
        f"run {run.id} was recorded by a later version of conceptprune ({run.unknown}), so what it "
        "refers to is not known: no result is removed; use that version, or --forget the run"
    )


def _unknown_records(units: Collection[Need]) -> str:
    (kind, key), *others = units
    also = f" and of {len(others)} others" if others else ""
    return (
        f"the record of {kind} {key[:12]}{also} is of another version of conceptprune, so what it "
        "refers to is not known: no object is removed; use that version"
    )


def _needs(runs: Collection[RecordedRun]) -> dict[str, tuple[frozenset[Need], str]]:
    return {run.id: (run.needs, run.unknown) for run in runs}


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
        ledger = Ledger(number=0, rows=[]) if forget else open_ledger(store, run)
        unknown = "" if forget else _unknown(store, run, entries, ledger)
    except UnknownFormatError:
        ledger, unknown = Ledger(number=0, rows=[]), f"{LEDGER_FILE} cannot be read"
    rows = ledger.rows
    named = {(row["kind"], row["key"]) for row in rows}
    named |= {need_of(text) for row in rows for text in row["needs"]}
    # A record under a former name of the unit's kind is also the one that the run refers to.
    needs = {(name, key) for kind, key in named for name in kinds_of(kind)}
    edits = {path for row in rows for path in row["applies"]}
    if ledger.number < COMPLETE and not forget:
        needs |= set(needs_beside_rows(store))
        edits |= edits_beside_rows(store, run)
    return RecordedRun(
        id=run,
        entries=entries,
        needs=frozenset(needs),
        edits=frozenset(edits),
        has_ledger=bool(rows),
        unfinished=not rows or any(row["status"] == "pending" for row in rows),
        unknown=unknown,
    )


def _unknown(store: Store, run: str, entries: Collection[Entry], ledger: Ledger) -> str:
    """Why a run may refer to more than its ledger says; empty if it does not."""
    if ledger.is_later:
        return f"its ledger is of the format ledger/{ledger.number}"
    if ledger.number:
        return ""
    names = {entry.path.removeprefix(f"runs/run={run}/") for entry in entries}
    strange = sorted(name for name in names if not _is_run_file(name))
    if strange:
        return f"without a ledger, but with a file {strange[0]}"
    evaluation = EvaluationRecord.read(store, run)
    later = evaluation is not None and evaluation.later
    if RUN_FILE in names:
        later = later or RunRecord.read(store, run).later
    return "its record is of a later format" if later else ""


def _is_run_file(name: str) -> bool:
    folder, _, file = name.rpartition("/")
    known = folder == JOBS_FOLDER or name in (RUN_FILE, EVALUATION_FILE, LEDGER_FILE, CONCEPTS_FILE)
    return known or file.startswith(TEMPORARY_PREFIX)


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
