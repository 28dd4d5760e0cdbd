"""What `export` writes: the files of a checkpoint, its metadata, card and statement."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conceptprune.checkpoints.card import (
    CARD_FILE,
    METADATA_FILE,
    Evaluation,
    Exported,
    Form,
    metadata_json,
    model_card,
)
from conceptprune.checkpoints.files import Edit, delta_file, pipeline_files, zeroed
from conceptprune.checkpoints.seal import sealer
from conceptprune.checkpoints.single_file import check_single_file, write_single_file
from conceptprune.checkpoints.statement import STATEMENT_FILE, state
from conceptprune.digest import digest_file
from conceptprune.errors import StoreError, UserError
from conceptprune.masks.mask import PruningMask
from conceptprune.models.families import identity
from conceptprune.models.from_single_file import converted_from
from conceptprune.store import Commit, Store
from conceptprune.studio import LABEL, model_path
from conceptprune.units.results import read_mask

from ..console.logs import one_line
from ..console.names import slug, some
from ..console.terminal import echo
from ..records.run_record import RunRecord
from ..records.runs import MAX_NAMES_SHOWN, find_run
from ..records.trail import exported as exported_event
from ..report.cards import evaluated_edits, measurements
from ..report.data import Judged, judged_edits
from .output import complete_or_absent
from .provenance import Part, predicate

DIGEST_CHARS = 8

Write = Callable[["Checkpoint", Path], None]
"""Writes a checkpoint's files into a folder, in one form."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """One checkpoint to write: the combined mask, and the masks of its concepts."""

    mask: PruningMask
    parts: Sequence[Part]
    combined: Commit | None = None
    """The record of `mask`, if a run combined the others and not this command."""

    @property
    def name(self) -> str:
        """A file name; the digest separates names that differ only in unsafe characters."""
        names = self.mask.concepts
        fusion = self.mask.provenance.get("fusion")
        how = fusion["how"] if isinstance(fusion, Mapping) else fusion or "union"
        text = names[0] if len(names) == 1 else f"{how} of {len(names)}"
        return f"{slug(text) or 'concept'}-{self.mask.digest[:DIGEST_CHARS]}"

    @property
    def file(self) -> str:
        """Name of the safetensors file, in the forms that are a single file."""
        return f"{self.name}.safetensors"

    def delta_file(self, component: str) -> str:
        """Name of the file with a component's edited tensors."""
        if component == self.mask.components[0]:
            return self.file
        return f"{self.name}.{component}.safetensors"


def run_to_export(store: Store, run: str | None) -> RunRecord:
    """The record of the run, or of the newest.

    Raises:
        UserError: no such run, or a later version recorded it.
    """
    record = find_run(store, run)
    if not record.denoiser_weights:
        raise UserError(
            f"run {record.run} was recorded by a later version of conceptprune, and not as this "
            "one can export it: use that version"
        )
    return record


def parts(store: Store, keys: Mapping[str, str]) -> list[Part]:
    """The masks with these keys, by concept, and their records.

    Raises:
        StoreError: one is missing or damaged, or is not its concept's.
    """
    return [
        Part(mask=read_mask(store, key, of=name), commit=store.get("mask", key))
        for name, key in keys.items()
    ]


def write_checkpoints(
    store: Store,
    record: RunRecord,
    checkpoints: Sequence[Checkpoint],
    *,
    out: Path,
    form: Form,
    model: Path | None,
    seal: bool,
    without: Mapping[str, str],
) -> None:
    """Write checkpoints to `out`, several each to a folder in it, completely or not at all.

    `without` are the run's concepts that should be erased and are not, and the reasons.

    Raises:
        UserError: the base model is needed, and is not the run's; or it has no such form.
    """
    write = _writer(form, record, model, seal=seal)
    folders = [out / item.name if len(checkpoints) > 1 else out for item in checkpoints]
    # Not valid for a sealed checkpoint, whose pruned entries are not zero.
    judged: Judged = (lambda *_: None) if seal else judged_edits(store, record)
    evaluated = (lambda _: ()) if seal else evaluated_or_told(store)
    with complete_or_absent(out) as temporary:
        for folder, checkpoint in zip(folders, checkpoints, strict=True):
            inside = temporary / folder.relative_to(out)
            inside.mkdir(exist_ok=True)
            write(checkpoint, inside)
            exported = Exported(
                form=form,
                mask=checkpoint.mask,
                parts=[part.mask for part in checkpoint.parts],
                model_digest=record.model_identity,
                pipeline=record.pipeline,
                denoiser_weights=record.denoiser_weights,
                measurements=measurements(judged(checkpoint.mask.digest, checkpoint.mask.concepts)),
                evaluations=evaluated(checkpoint.mask.digest),
                sealed=seal,
                file=None if form == "pipeline" else checkpoint.file,
                delta_files={
                    component: checkpoint.delta_file(component)
                    for component in checkpoint.mask.components
                    if form in ("delta", "unet")
                },
            )
            # Last, because a base model's folder may contain its own card.
            (inside / METADATA_FILE).write_text(metadata_json(exported), encoding="utf-8")
            (inside / CARD_FILE).write_text(model_card(exported), encoding="utf-8")
            said = predicate(exported, record, checkpoint.parts, without, checkpoint.combined)
            # It contains the digests of all other files.
            (inside / STATEMENT_FILE).write_bytes(state(inside, said).to_bytes())
        statements = [digest_file(path) for path in temporary.rglob(STATEMENT_FILE)]
    masks = {
        part.mask.concepts[0]: part.commit.objects["mask"].digest
        for checkpoint in checkpoints
        for part in checkpoint.parts
    }
    put_on_record(store, record, form, statements, masks=masks)
    for name, reason in without.items():
        echo(one_line(f'note: "{name}" is not erased, as it has no mask ({reason})'), err=True)
    for folder, checkpoint in zip(folders, checkpoints, strict=True):
        mask = checkpoint.mask
        echo(
            f"wrote {folder}: {form} without {one_line(some(mask.concepts, MAX_NAMES_SHOWN))}, "
            f"{mask.num_entries:,} weights {'sealed' if seal else 'zeroed'} "
            f"({100 * mask.density:.2f} % of the site)"
        )


def put_on_record(
    store: Store,
    record: RunRecord,
    form: Form,
    statements: Sequence[str],
    *,
    masks: Mapping[str, str],
    rewording: Mapping[str, Any] | None = None,
) -> None:
    """Put an export into the store's chain of events, or tell why that could not be."""
    try:
        exported_event(
            store,
            run=record.run,
            form=form,
            masks=masks,
            statements=statements,
            rewording=rewording,
        )
    except StoreError as error:
        # Whoever can read the masks needs no export: it is no guard, and must not be in the way.
        echo(f"note: this export is not on record in the store: {error}", err=True)


def evaluated_or_told(store: Store) -> Callable[[str], Sequence[Evaluation]]:
    """What evaluations found of an edit, by its digest; none, with a note, if they are damaged."""
    try:
        return evaluated_edits(store)
    except StoreError as error:
        # The checkpoint is fine without; only `report` requires readable evaluations.
        echo(f"note: the card is without evaluations: {error}", err=True)
        return lambda _: ()


def _writer(form: Form, record: RunRecord, model: Path | None, *, seal: bool) -> Write:
    if form == "mask":
        return lambda checkpoint, out: checkpoint.mask.save(out / checkpoint.file)
    base = base_model(record, model)
    if form == "single-file":
        check_single_file(record.pipeline)
        return lambda checkpoint, out: write_single_file(
            checkpoint.mask, base, out / checkpoint.file, _edit_of(checkpoint.mask, seal)
        )
    if form == "pipeline":
        return lambda checkpoint, out: write_files(
            out, pipeline_files(checkpoint.mask, base, _edit_of(checkpoint.mask, seal))
        )
    return lambda checkpoint, out: write_files(
        out,
        (
            (
                checkpoint.delta_file(component),
                delta_file(
                    checkpoint.mask,
                    base,
                    component,
                    _edit_of(checkpoint.mask, seal),
                    whole=form == "unet",
                ),
            )
            for component in checkpoint.mask.components
        ),
    )


def write_files(out: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Write files (path below `out`, bytes)."""
    for path, data in files:
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        (out / path).write_bytes(data)


def _edit_of(mask: PruningMask, seal: bool) -> Edit:
    return sealer(mask) if seal else zeroed


def base_model(record: RunRecord, model: Path | None) -> Path:
    """The folder of the run's base model, which must be identical.

    A single file is accepted if a run converted it on this machine.
    """
    if model is None and record.model_label != LABEL:
        raise UserError(
            f"--model: the folder of {record.model_label} is needed, as its weights are not in "
            "the store"
        )
    folder = model or model_path()
    if folder.is_file():
        found = [path for path in converted_from(folder) if identity(path) == record.model_identity]
        if not found:
            raise UserError(
                f"--model: no run on this machine had {folder} as its model; name the folder of "
                f"{record.model_label} instead"
            )
        return found[0]
    if not folder.is_dir():
        raise UserError(f"--model: {folder} is not a folder on this machine")
    digest = identity(folder)
    if digest != record.model_identity:
        raise UserError(
            f"--model: {folder} is not the model of run {record.run} ({record.model_label}): its "
            f"digest is {digest[:12]}, the run's is {record.model_identity[:12]}"
        )
    return folder
