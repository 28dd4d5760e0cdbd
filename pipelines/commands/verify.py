"""`conceptprune verify`: whether an export matches its statement of provenance."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conceptprune.checkpoints.statement import STATEMENT_FILE, Statement
from conceptprune.digest import digest_json
from conceptprune.errors import StoreError, UserError
from conceptprune.store import ObjectRef, Store

from ..console.logs import one_line
from ..console.names import some
from ..console.terminal import echo
from ..records.runs import MAX_NAMES_SHOWN, find_run
from .signature import check_tool, signature_problem

FORMAT = "conceptprune.verify/1"


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


def verified_document(found: Sequence[Verified]) -> dict[str, Any]:
    """The verdicts, for programs."""
    return {
        "format": FORMAT,
        "store": found[0].store,
        "good": not any(each.problems for each in found),
        "exports": [each.as_json() for each in found],
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
    statements = sorted(folder.glob(STATEMENT_FILE)) or sorted(folder.glob(f"*/{STATEMENT_FILE}"))
    folders = [path.parent for path in statements]
    if not folders:
        raise UserError(
            f"{folder}: has no {STATEMENT_FILE}; give a folder that `conceptprune export` wrote"
        )
    if signers:
        check_tool(signers)
    opened = Store(store) if store else None
    return [_verified(each, opened, signers) for each in folders]


def _verified(folder: Path, store: Store | None, signers: Path | None) -> Verified:
    path = folder / STATEMENT_FILE
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    statement = Statement.from_bytes(data, source=str(path))
    try:
        problems = list(statement.differences(folder))
        if store is not None:
            problems += _against(store, statement.predicate)
        if signers and (problem := signature_problem(folder, data, signers)):
            problems.append(problem)
    except (LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: its predicate is not as this version has it") from error
    return Verified(
        folder=folder,
        statement=statement,
        problems=tuple(problems),
        store=store.uri if store else None,
    )


def _against(store: Store, predicate: Mapping[str, Any]) -> Iterator[str]:
    """How a store differs from the statement: the run's record, and the masks in the export."""
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
    for part in _parts(predicate):
        yield from _object(store, part["concept"], part["mask"])


def _object(store: Store, concept: str, mask: Mapping[str, Any]) -> Iterator[str]:
    try:
        store.read(ObjectRef.from_json(dict(mask)))
    except (StoreError, ValueError) as error:
        yield f"mask of {concept}: {error}"


def _parts(predicate: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    parts: list[Mapping[str, Any]] = predicate["concepts"]
    return parts
