"""`conceptprune verify`: whether an export is what its statement of provenance says it is.

And whether a store's chain of events is whole.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from conceptprune.checkpoints.statement import STATEMENT_FILE, Statement
from conceptprune.digest import digest_json
from conceptprune.errors import UserError
from conceptprune.store import Store
from conceptprune.store.events import Chain, check_events
from conceptprune.strict_reading import open_regular

from ..console.logs import one_line
from ..console.names import some
from ..console.terminal import echo
from ..records.runs import MAX_NAMES_SHOWN, find_run
from .exported_files import whose_files
from .signature import check_tool, signature_problem
from .stored_edits import bad_edits, problem_of

FORMAT = "conceptprune.verify/1"
MAX_STATEMENT_BYTES = 2**26
"""64 MiB: a statement has a line for each file and concept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """A store's chain of events, and what is wrong with it."""

    store: str
    chain: Chain
    problems: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "good": not self.problems,
            "problems": list(self.problems),
            "last": self.chain.digests[-1] if self.chain.digests else None,
            "events": [
                {**asdict(event), "sha256": digest}
                for event, digest in zip(self.chain.events, self.chain.digests, strict=True)
            ],
        }


def audit(store: str, known: Sequence[str] = ()) -> Audit:
    """Walk a store's chain of events, and read the masks and rewordings of all its runs.

    `known` are SHA-256 of events that must be in the chain. A mask or a rewording must be the one
    of the concepts whose record names it.

    Raises:
        UserError: one of `known` is no SHA-256.
        StoreError: the store cannot be read.
    """
    for digest in known:
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise UserError(
                f"--event {digest}: is no SHA-256 of 64 hexadecimal digits; give what `verify "
                "--store` said of the last event"
            )
    opened = Store(store)
    chain = check_events(opened)
    problems = [f"{chain.problem}: the chain ends before it"] if chain.problem else []
    problems += [
        f"no event has the SHA-256 {digest}: the chain was cut off or made anew"
        for digest in known
        if digest not in chain.digests
    ]
    problems += dict.fromkeys(bad_edits(opened))
    return Audit(store=store, chain=chain, problems=tuple(problems))


def show_audit(found: Audit) -> None:
    """A line for the store, and one for each thing that is wrong with it."""
    whole = "NOT whole" if found.chain.problem else "whole"
    last = f", the last is {found.chain.digests[-1]}" if found.chain.digests else ""
    echo(one_line(f"{found.store}: chain of {len(found.chain.events)} events {whole}{last}"))
    for problem in found.problems:
        echo(one_line(f"  {problem}"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """An export compared with its statement, and with a store if one was given."""

    folder: Path
    statement: Statement
    problems: tuple[str, ...]
    store: str | None = None

    @property
    def concepts(self) -> tuple[str, ...]:
        """The concepts that are erased according to the statement."""
        return tuple(part["concept"] for part in _parts(self.statement.predicate))

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "folder": str(self.folder),
            "good": not self.problems,
            "problems": list(self.problems),
            "concepts": list(self.concepts),
            "subjects": dict(self.statement.subjects),
            "predicate": self.statement.predicate,
        }


def verified_document(found: Sequence[Verified], audited: Audit | None) -> dict[str, Any]:
    """The verdicts for programs."""
    bad = any(each.problems for each in found) or bool(audited and audited.problems)
    return {
        "format": FORMAT,
        "store": audited.store if audited else None,
        "good": not bad,
        "exports": [each.as_json() for each in found],
        "chain": audited.as_json() if audited else None,
    }


def show_verified(found: Sequence[Verified]) -> None:
    """Print one line per export, and one for each difference from its statement."""
    for each in found:
        verdict = "NOT as stated" if each.problems else "as stated"
        against = f", and against {each.store}" if each.store else ""
        echo(
            one_line(
                f"{each.folder}: {verdict}; {len(each.statement.subjects)} files checked{against}; "
                f"without {some(each.concepts, MAX_NAMES_SHOWN)}"
            )
        )
        for problem in each.problems:
            echo(one_line(f"  {problem}"))


def verify_export(
    folder: Path, store: str | None = None, signers: Path | None = None
) -> list[Verified]:
    """Compare each export in a folder with its statement: every file, and the store's objects.

    With `signers`, each statement must be signed by one of them.

    Raises:
        UserError: there is no statement in the folder, or it cannot be read.
        StoreError: the store cannot be read.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: is no folder; give one that `conceptprune export` wrote")
    # With several concepts, each has its own folder.
    folders, strays = _exports_in(folder)
    if not folders:
        raise UserError(
            f"{folder}: has no {STATEMENT_FILE}; give a folder that `conceptprune export` wrote"
        )
    if signers:
        check_tool(signers)
    opened = Store(store) if store else None
    return [
        # Told with each, as whoever uses one of them may take what lies beside it for checked.
        _verified(each, opened, signers, strays)
        for each in folders
    ]


def _exports_in(folder: Path) -> tuple[list[Path], list[str]]:
    """The folders with a statement, and what is wrong with everything beside them."""
    if (folder / STATEMENT_FILE).is_symlink() or (folder / STATEMENT_FILE).exists():
        return [folder], []
    folders, strays = [], []
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or not path.is_dir():
            strays.append(f"../{path.name}: lies beside the exports, and no statement names it")
        elif not (path / STATEMENT_FILE).exists():
            strays.append(f"../{path.name}: has no {STATEMENT_FILE}: nothing in it was checked")
        else:
            folders.append(path)
    return folders, strays


def _verified(
    folder: Path, store: Store | None, signers: Path | None, strays: Sequence[str]
) -> Verified:
    path = folder / STATEMENT_FILE
    try:
        with open_regular(path, MAX_STATEMENT_BYTES) as stream:
            data = stream.read(MAX_STATEMENT_BYTES)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    statement = Statement.from_bytes(data, source=str(path))
    try:
        _check_parts(statement.predicate)
        problems = [*statement.differences(folder), *whose_files(folder, statement)]
        if store is not None:
            problems += _against(store, statement.predicate)
        if signers and (problem := signature_problem(folder, data, signers)):
            problems.append(problem)
        problems += strays
    except (LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: its predicate is not as this version has it") from error
    return Verified(
        folder=folder,
        statement=statement,
        problems=tuple(problems),
        store=store.uri if store else None,
    )


def _against(store: Store, predicate: Mapping[str, Any]) -> Iterator[str]:
    """How a store differs from the statement: the run's record, and the masks or the rewording."""
    run = predicate["run"]["id"]
    try:
        record = find_run(store, run)
    except UserError:
        yield f"run {run}: is not in {store.uri}"
    else:
        if digest_json(record.manifest) != predicate["manifest"]["sha256"]:
            yield f"run {run}: its manifest in the store is another one"
        if record.model_identity != predicate["base_model"]["digest"]:
            yield f"run {run}: its base model in the store is another one"
    combined = predicate.get("combined")
    names = [part["concept"] for part in _parts(predicate)]
    if combined is not None and (
        problem := problem_of(store, combined["object"], names, delta=_is_delta(combined))
    ):
        yield problem
    if combined is None or not _is_delta(combined):
        for part in _parts(predicate):
            if problem := problem_of(store, part["mask"], [part["concept"]], delta=False):
                yield problem


def _is_delta(combined: Mapping[str, Any]) -> bool:
    """Whether it is a rewording, of which no concept has a mask of its own."""
    return bool(combined["how"] == "reworded")


def _check_parts(predicate: Mapping[str, Any]) -> None:
    """Check what every export says of its concepts; an error where it is something else."""
    if not all(isinstance(part["concept"], str) for part in _parts(predicate)):
        raise TypeError("a concept's name is no text")


def _parts(predicate: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    parts: list[Mapping[str, Any]] = predicate["concepts"]
    return parts
