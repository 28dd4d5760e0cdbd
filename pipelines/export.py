"""`conceptprune export`: checkpoints without some concepts, each with metadata and a card."""

import difflib
import re
import shutil
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, get_args
from uuid import uuid4

import typer

from conceptprune.checkpoints import delta_file, pipeline_files
from conceptprune.errors import UserError
from conceptprune.families.stable_diffusion import identity
from conceptprune.manifest import concept_key
from conceptprune.mask import PruningMask, union_masks
from conceptprune.model_card import (
    CARD_FILE,
    METADATA_FILE,
    Exported,
    Form,
    metadata_json,
    model_card,
)
from conceptprune.stages import read_mask
from conceptprune.store import Store
from conceptprune.studio import model_path
from pipelines.ledger import RunRecord, read_ledger
from pipelines.status import one_line, run_records

FORMS: tuple[Form, ...] = get_args(Form)
FUSIONS = ("union",)
STUDIO = "studio"
MAX_NAMES_SHOWN = 10
MAX_SLUG_CHARS = 40
DIGEST_CHARS = 8

T = TypeVar("T", bound=str)
FilesOf = Callable[["Checkpoint"], Iterable[tuple[str, bytes]]]
"""(path, bytes) of each file of a checkpoint, in one of the forms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """One checkpoint to write: what is pruned, and the masks of the single concepts in it."""

    mask: PruningMask
    parts: Sequence[PruningMask]

    @property
    def name(self) -> str:
        """A file name; the digest keeps names apart that read alike once they are made safe."""
        names = self.mask.concepts
        text = names[0] if len(names) == 1 else f"union of {len(names)}"
        return f"{slug(text)}-{self.mask.digest[:DIGEST_CHARS]}"

    @property
    def file(self) -> str:
        """Name of the safetensors file, in the forms that are one."""
        return f"{self.name}.safetensors"


def export_concepts(
    store_uri: str,
    concepts: list[str],
    *,
    out: Path,
    form: str,
    fuse: str | None,
    run: str | None,
    model: Path | None,
) -> None:
    """Write checkpoints without `concepts` to the folder `out`, whole or not at all.

    One concept, or several with `fuse`, are written to `out` itself; several without, each to a
    folder of its own in it.

    Raises:
        UserError: an unknown form, fusion, run or concept, an unfinished mask, a folder that is in
            use, or a base model that is not the run's.
    """
    chosen = _choice("--as", form, FORMS)
    if fuse is not None:
        _choice("--fuse", fuse, FUSIONS)
    out = out.resolve()
    _check_unused(out)
    store = Store(store_uri)
    record = _find_run(store, run)
    masks = _masks(store, record, concepts)
    files_of = _files_of(chosen, record, model)
    if len(masks) > 1 and fuse:
        checkpoints = [Checkpoint(mask=union_masks(masks), parts=masks)]
    else:
        checkpoints = [Checkpoint(mask=mask, parts=[mask]) for mask in masks]
    folders = [out / item.name if len(checkpoints) > 1 else out for item in checkpoints]
    with _complete_or_absent(out) as temporary:
        for folder, checkpoint in zip(folders, checkpoints, strict=True):
            _write(checkpoint, temporary / folder.relative_to(out), chosen, record, files_of)
    for folder, checkpoint in zip(folders, checkpoints, strict=True):
        mask = checkpoint.mask
        typer.echo(
            f"wrote {folder}: {chosen} without {one_line(', '.join(mask.concepts))}, "
            f"{mask.num_entries:,} weights zeroed ({100 * mask.density:.2f} % of the site)"
        )


def slug(text: str) -> str:
    """Lower-case ASCII letters, digits and single hyphens of a text; never empty, never a path."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub("[^a-z0-9]+", "-", plain)[:MAX_SLUG_CHARS].strip("-") or "concept"


def _write(
    checkpoint: Checkpoint, folder: Path, form: Form, record: RunRecord, files_of: FilesOf
) -> None:
    folder.mkdir(exist_ok=True)
    for path, data in files_of(checkpoint):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    exported = Exported(
        form=form,
        mask=checkpoint.mask,
        parts=checkpoint.parts,
        model_digest=record.model_identity,
        denoiser_weights=record.denoiser_weights,
        file=None if form == "pipeline" else checkpoint.file,
    )
    # Last, because a base model's folder may bring a card of its own.
    (folder / METADATA_FILE).write_text(metadata_json(exported), encoding="utf-8")
    (folder / CARD_FILE).write_text(model_card(exported), encoding="utf-8")


def _files_of(form: Form, record: RunRecord, model: Path | None) -> FilesOf:
    if form == "mask":
        return lambda checkpoint: [(checkpoint.file, checkpoint.mask.to_bytes())]
    folder = _base_model(record, model)
    if form == "pipeline":
        return lambda checkpoint: pipeline_files(checkpoint.mask, folder)
    return lambda checkpoint: [(checkpoint.file, delta_file(checkpoint.mask, folder))]


def _find_run(store: Store, run: str | None) -> RunRecord:
    by_id = {record.run: record for record in run_records(store)}
    if run is None:
        return next(iter(by_id.values()))
    if run not in by_id:
        raise UserError(f"--run {run}: {store.uri} has no such run{_instead(run, list(by_id))}")
    return by_id[run]


def _masks(store: Store, record: RunRecord, concepts: Sequence[str]) -> list[PruningMask]:
    """The masks of the concepts named, each once."""
    names = {concept_key(item["name"]): item["name"] for item in record.manifest["concepts"]}
    wanted = dict.fromkeys(concept_key(concept) for concept in concepts)
    unknown = [concept for concept in concepts if concept_key(concept) not in names]
    if unknown:
        raise UserError(
            "\n".join(
                f'"{name}" is not a concept of run {record.run}'
                f"{_instead(name, list(names.values()))}"
                for name in unknown
            )
        )
    rows = {
        row["concepts"][0]: row
        for row in reversed(read_ledger(store, record.run))
        # A fused mask comes after those of the concepts and does not have a concept's name.
        if row["kind"] == "mask" and row["concepts"] == [row["detail"]]
    }
    masks = []
    for name in (names[key] for key in wanted):
        row = rows.get(name)
        if row is None or store.find("mask", row["key"]) is None:
            reason = f" ({row['status']}: {row['error']})" if row and row["error"] else ""
            raise UserError(
                f'the mask of "{name}" is not finished in run {record.run}{one_line(reason)}; '
                "run `conceptprune erase` again"
            )
        masks.append(read_mask(store, row["key"]))
    return masks


def _base_model(record: RunRecord, model: Path | None) -> Path:
    """The folder of the run's base model; it must be the very same."""
    if model is None and record.model_label != STUDIO:
        raise UserError(
            f"--model: the folder of {record.model_label} is needed, as its weights are not in "
            "the store"
        )
    folder = model or model_path()
    if not folder.is_dir():
        raise UserError(f"--model: {folder} is not a folder on this machine")
    found = identity(folder)
    if found != record.model_identity:
        raise UserError(
            f"--model: {folder} is not the model of run {record.run} ({record.model_label}): its "
            f"digest is {found[:12]}, the run's is {record.model_identity[:12]}"
        )
    return folder


def _check_unused(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out}: exists already; name a folder that does not")


@contextmanager
def _complete_or_absent(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its place at the end, or goes away on an error."""
    temporary = out.parent / f".{out.name}-{uuid4().hex}"
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written: {error.strerror}") from error
    try:
        yield temporary
        temporary.replace(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _choice(option: str, value: str, allowed: Sequence[T]) -> T:
    for choice in allowed:
        if value == choice:
            return choice
    raise UserError(f"{option} {value}: allowed are {', '.join(allowed)}{_nearest(value, allowed)}")


def _nearest(text: str, names: Sequence[str]) -> str:
    """What may have been meant, as the end of a message."""
    by_key = {concept_key(name): name for name in names}
    close = difflib.get_close_matches(concept_key(text), by_key, n=3, cutoff=0.5)
    return f"; nearest: {one_line(', '.join(by_key[key] for key in close))}" if close else ""


def _instead(text: str, names: Sequence[str]) -> str:
    """The nearest names; where none is near, some of those there are."""
    shown = ", ".join(names[:MAX_NAMES_SHOWN])
    if len(names) > MAX_NAMES_SHOWN:
        shown += f" and {len(names) - MAX_NAMES_SHOWN} more"
    return _nearest(text, names) or f"; there are: {one_line(shown)}"
